"""Runs the Python blocks of a page: [file, source] a line on stdin, [failed, printed] on stdout."""

import contextlib
import io
import json
import sys
import traceback

replies = sys.stdout
names: dict[str, object] = {"__name__": "__main__"}
for line in sys.stdin:
    page, source = json.loads(line)
    printed, failed = io.StringIO(), False
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(source, page, "exec"), names)
        except BaseException:
            failed = True
            printed.write(traceback.format_exc())
    print(json.dumps([failed, printed.getvalue()]), file=replies, flush=True)
