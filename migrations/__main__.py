"""`python -m migrations`: bring the database of the settings up to date."""

from __future__ import annotations

from migrations import current, upgrade
from settings import Settings

if __name__ == "__main__":
    url = Settings().database
    upgrade(url)
    print(f"The database is up to date, at revision {current(url)}.")
