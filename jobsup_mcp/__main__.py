from jobsup_mcp import main

main()
