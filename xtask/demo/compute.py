"""Computes with threads and files: `compute.py FOLDER ROUNDS`. Its first line is its PID, its second
the answer, which depends on nothing but ROUNDS."""

import hashlib
import os
import sys
import threading

THREADS = 3
folder, rounds = sys.argv[1], int(sys.argv[2])


def part(number):
    return os.path.join(folder, "part%d" % number)


def work(number):
    digest = bytes([number])
    with open(part(number), "w") as file:
        for turn in range(rounds):
            digest = hashlib.sha256(digest).digest()
            if turn % 1000 == 0:
                file.write(digest.hex() + "\n")
        file.write(digest.hex() + "\n")


print(os.getpid(), flush=True)
os.makedirs(folder)
threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
answer = hashlib.sha256()
for number in range(THREADS):
    with open(part(number), "rb") as file:
        answer.update(file.read())
print(answer.hexdigest())
