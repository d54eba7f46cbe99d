"""Opens tables with DuckDB and polars and prints their row counts; fails where the two disagree or cannot read one.

    python3 benches/peers/open_tables.py 'data/store/tables/demo/rewrites/*.parquet' [more globs, one per table]

Needs: duckdb, polars.
"""

import sys

import duckdb
import polars


def main(tables):
    if not tables:
        sys.exit(__doc__)
    failed = False
    for table in tables:
        try:
            count = duckdb.execute("select count(*) from read_parquet(?)", [table]).fetchall()[0][0]
            columns = [row[0] for row in duckdb.execute("describe select * from read_parquet(?)", [table]).fetchall()]
            frame = polars.read_parquet(table)
        except Exception as error:  # any failure to open a table is what this script looks for
            print(f"{table}\tFAILED: {error}")
            failed = True
            continue
        agree = count == frame.height and columns == frame.columns
        failed |= not agree
        print(f"{table}\tduckdb {count}\tpolars {frame.height}\t{len(columns)} columns\t{'ok' if agree else 'DIFFER'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
