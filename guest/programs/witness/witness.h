// What the parts of the witness share. A check is a claim about the world that must hold however
// often the process is moved; `inject` breaks it as a bad move would, and then the check must fail.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct check {
    const char *name;
    void (*start)(void);  // before the first tick; may start threads
    void (*tick)(void);   // every millisecond on the first thread, or 0
    void (*finish)(void); // after the last tick: joins its threads, looks a last time; or 0
    void (*inject)(void); // once, on the first thread, between two ticks
    char failure[200];    // the first thing that did not hold
};

// How much later than asked a wait may end: a move takes time, but not without limit.
enum { LATE_MS = 1500 };

extern volatile bool stopping; // set after the last tick
extern unsigned ticks;         // so far

// Notes what does not hold; the first note of a check stays. Any thread may call it.
void fail(struct check *check, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Starts a thread with every signal blocked. Ends the program if it cannot.
pthread_t begin(void *(*run)(void *), void *argument);
// Ends the program if `good` is false: the check could not even be set up.
void need(bool good, const char *what);
int64_t now_ns(clockid_t clock);
void sleep_ms(int ms);
// A random number, the same sequence in each run of a caller's own state.
uint64_t next_random(uint64_t *state);
