from ssld_pipeline.cli import main

main()
