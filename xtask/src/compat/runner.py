"""Runs one module of CPython's own tests; writes a line for each case to a file as it ends.

usage: runner.py MODULE RESULTS [CASE...]

A line is the verdict (ok, skipped, failed, began), a tab, the case, and for the last two a tab and a reason.
"""

import fcntl
import os
import sys
import unittest

from test import support

support.use_resources = ["cpu", "subprocess", "walltime", "network"]


class Result(unittest.TextTestResult):
    """Tells of every case when it begins and how it ended."""

    def startTest(self, test):
        super().startTest(test)
        self.verdict = ("ok", "")
        tell("began", test.id(), "")

    def stopTest(self, test):
        super().stopTest(test)
        tell(self.verdict[0], test.id(), self.verdict[1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.verdict = ("skipped", reason)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, error)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.note(test, error)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.verdict = ("failed", "unexpected success")

    def note(self, test, error):
        reason = f"{error[0].__name__}: {error[1]}"
        self.verdict = ("failed", reason)
        if not isinstance(test, unittest.TestCase):
            # Setting up a class or module has failed: nobody stops this one.
            tell("failed", test.id(), reason)


def tell(verdict, case, reason):
    line = "\t".join([verdict, case, " ".join(reason.split())[:200]])
    os.write(results, f"{line}\n".encode("utf-8", "backslashreplace"))


def main():
    global results
    module, path, *cases = sys.argv[1:]
    low = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # High, so that the tests find the low numbers free.
    results = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(low)
    del sys.argv[1:]
    suite = unittest.defaultTestLoader.loadTestsFromNames(cases or [f"test.{module}"])
    outcome = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    sys.exit(not outcome.wasSuccessful())


# Children that are spawned import this file.
if __name__ == "__main__":
    main()
