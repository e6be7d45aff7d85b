from services._process.run import run_service
from services.ingest.shell import serve

if __name__ == "__main__":
    run_service("ingest", serve)
