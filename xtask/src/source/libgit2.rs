//! libgit2 and its command: 200 files, none of which takes long.

use super::{copy, fetch, make_folder, write};
use anyhow::Result;
use std::path::Path;

/// Where they come from.
const PACKAGE: &str = "libgit2-sys";
const LIBRARY: &str = "libgit2";

/// Folders that hold C files or headers, each after the one it is in.
const FOLDERS: [&str; 19] = [
    "include",
    "include/git2",
    "include/git2/sys",
    "src",
    "src/cli",
    "src/cli/unix",
    "src/libgit2",
    "src/libgit2/streams",
    "src/libgit2/transports",
    "src/util",
    "src/util/allocators",
    "src/util/hash",
    "src/util/hash/rfc6234",
    "src/util/hash/sha1dc",
    "src/util/unix",
    "deps",
    "deps/llhttp",
    "deps/xdiff",
    "deps/zlib",
];

const MAKEFILE: &str = "\
CC = cc
CFLAGS = -O1 -w -D_GNU_SOURCE -DNO_GZIP -DSHA1DC_NO_STANDARD_INCLUDES=1 \\
  -DSHA1DC_CUSTOM_INCLUDE_SHA1_C='\"git2_util.h\"' -DSHA1DC_CUSTOM_INCLUDE_UBC_CHECK_C='\"git2_util.h\"' \\
  -I. -Iinclude -Isrc/libgit2 -Isrc/util -Isrc/cli -Ideps/llhttp -Ideps/xdiff -Ideps/zlib
HASH = builtin collisiondetect rfc6234/sha224-256 sha1dc/sha1 sha1dc/ubc_check
SOURCES = $(wildcard src/cli/*.c src/cli/unix/*.c src/libgit2/*.c src/libgit2/*/*.c src/util/*.c src/util/unix/*.c \\
  deps/*/*.c) $(HASH:%=src/util/hash/%.c) src/util/allocators/failalloc.c src/util/allocators/stdalloc.c
OBJECTS = $(SOURCES:.c=.o)

git2: $(OBJECTS)
\t$(CC) -o $@ $^

%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
";

/// What its own configuration would find.
const FEATURES: &str = "\
#define GIT_THREADS 1
#define GIT_TRACE 1
#define GIT_HTTPPARSER_BUILTIN 1
#define GIT_USE_NSEC 1
#define GIT_IO_POLL 1
#define GIT_IO_SELECT 1
#define GIT_USE_STAT_MTIM 1
#define GIT_ARCH_64 1
#define GIT_SHA1_COLLISIONDETECT 1
#define GIT_SHA256_BUILTIN 1
#define GIT_REGEX_REGCOMP 1
";

/// Puts the code base into a new folder; `make` makes the command `git2` of it.
pub(crate) fn unpack(folder: &Path) -> Result<()> {
    let library = fetch(PACKAGE, LIBRARY)?;
    make_folder(folder)?;
    for part in FOLDERS {
        make_folder(&folder.join(part))?;
        copy(&library.join(part), &folder.join(part))?;
    }
    write(&folder.join("git2_features.h"), FEATURES.as_bytes())?;
    write(&folder.join("Makefile"), MAKEFILE.as_bytes())
}
