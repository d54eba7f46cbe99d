"""Runs every SQL block of docs/inspect.md with DuckDB and every Python block with polars, as they stand.

    mindgap run pipelines/smoke.toml
    python tests/peers/queries.py [--store data/store]

Needs: pip install duckdb polars. Prints how many rows each query gives; ends with an error where one does not run, or gives
nothing though it should.
"""

import argparse
import contextlib
import io
import pathlib
import re
import sys

import duckdb

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "inspect.md"
# No row of the smoke pipeline's input is refused.
MAY_BE_EMPTY = {"Rows that were refused"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="data/store")
    store = parser.parse_args().store
    failed = False
    for section in PAGE.read_text().split("\n## ")[1:]:
        title = section.splitlines()[0]
        for kind, block in re.findall(r"```(sql|python)\n(.*?)```", section, re.DOTALL):
            block = block.replace("data/store/", f"{store.rstrip('/')}/")
            try:
                if kind == "sql":
                    rows = len(duckdb.sql(block).fetchall())
                else:
                    printed = io.StringIO()
                    with contextlib.redirect_stdout(printed):
                        exec(block, {})
                    rows = int(re.match(r"shape: \((\d+),", printed.getvalue()).group(1))
            except Exception as error:  # whatever goes wrong, the page is wrong
                print(f"{title} ({kind}): FAILED: {error}")
                failed = True
                continue
            empty = rows == 0 and title not in MAY_BE_EMPTY
            failed |= empty
            print(f"{title} ({kind}): {rows} rows{'  EMPTY' if empty else ''}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
