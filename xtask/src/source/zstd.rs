//! The library sources of zstd, with a makefile and a small main program of ours.

use super::{copy, fetch, make_folder, write};
use anyhow::Result;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where they come from.
const PACKAGE: &str = "zstd-sys";
const LIBRARY: &str = "zstd/lib";

/// Folders of zstd's library that hold C files.
const FOLDERS: [&str; 6] =
    ["common", "compress", "decompress", "deprecated", "dictBuilder", "legacy"];

const MAKEFILE: &str = "\
# As libraries are built: each source once for programs and once for the shared library.
# Objects do not depend on where they are built: paths are relative, nothing holds a date.
# An object appears complete or not at all. Each takes five programs (sh, cc, cc1, as, mv), so that
# turns over three nodes do not give the same node all compilers.
CC = cc
CFLAGS = -O1 -w -Ilib -Ilib/common -Ilib/legacy -DZSTD_DISABLE_ASM -DZSTD_LEGACY_SUPPORT=1
STATIC = $(patsubst %.c,%.o,$(wildcard lib/*/*.c))
SHARED = $(STATIC:.o=.pic.o)

.PHONY: all
all: program libzstd.so

program: main.o $(STATIC)
\t$(CC) -o $@ $^

libzstd.so: $(SHARED)
\t$(CC) -shared -o $@ $^

%.pic.o: %.c
\t$(CC) $(CFLAGS) -fPIC -c -o $@.new $< && mv $@.new $@

%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@.new $< && mv $@.new $@
";

const MAIN: &str = r#"/* Compresses and restores standard input; prints both sizes. */
#include "zstd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    size_t size = 0, capacity = 1 << 16, got;
    char *data = malloc(capacity);
    while (data && (got = fread(data + size, 1, capacity - size, stdin)) > 0) {
        size += got;
        if (size == capacity) data = realloc(data, capacity *= 2);
    }
    size_t bound = ZSTD_compressBound(size);
    char *packed = malloc(bound), *restored = malloc(size + 1);
    if (!data || !packed || !restored) return 2;
    size_t packed_size = ZSTD_compress(packed, bound, data, size, 3);
    if (ZSTD_isError(packed_size)) return 3;
    size_t restored_size = ZSTD_decompress(restored, size, packed, packed_size);
    if (restored_size != size || memcmp(data, restored, size)) return 4;
    printf("%zu bytes, compressed to %zu and restored\n", size, packed_size);
    return 0;
}
"#;

/// Puts the code base into a new folder; returns the number of C files.
pub(crate) fn unpack(folder: &Path) -> Result<usize> {
    let library = fetch(PACKAGE, LIBRARY)?;
    make_folder(folder)?;
    make_folder(&folder.join("lib"))?;
    let mut files = copy(&library, &folder.join("lib"))?;
    for part in FOLDERS {
        make_folder(&folder.join("lib").join(part))?;
        files += copy(&library.join(part), &folder.join("lib").join(part))?;
    }
    write(&folder.join("Makefile"), MAKEFILE.as_bytes())?;
    write(&folder.join("main.c"), MAIN.as_bytes())?;
    Ok(files + 1)
}

/// A makefile and a main program for the folder `common` alone.
const SMALL_MAKEFILE: &str = "\
CC = cc
CFLAGS = -O1 -w -DZSTD_DISABLE_ASM
OBJECTS = main.o $(patsubst %.c,%.o,$(wildcard common/*.c))

program: $(OBJECTS)
\t$(CC) -o $@ $^

%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
";
const SMALL_MAIN: &str = r#"/* Prints the checksum of a known text. */
#include "common/xxhash.h"
#include <stdio.h>
#include <string.h>

int main(void) {
    const char *text = "many machines, one Unix";
    printf("%llx\n", (unsigned long long)XXH64(text, strlen(text), 0));
    return 0;
}
"#;

/// Puts a small part of the code base, of the same nature, into a new folder.
pub(crate) fn unpack_small(folder: &Path) -> Result<()> {
    let library = fetch(PACKAGE, LIBRARY)?;
    make_folder(folder)?;
    make_folder(&folder.join("common"))?;
    copy(&library.join("common"), &folder.join("common"))?;
    for header in ["zstd.h", "zstd_errors.h"] {
        write(&folder.join(header), &fs::read(library.join(header))?)?;
    }
    write(&folder.join("Makefile"), SMALL_MAKEFILE.as_bytes())?;
    write(&folder.join("main.c"), SMALL_MAIN.as_bytes())
}

/// Every C file of an unpacked code base in a fixed order, one after the other.
pub(crate) fn concatenate(folder: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for part in FOLDERS {
        let entries = fs::read_dir(folder.join("lib").join(part))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
        paths.sort();
        for path in paths {
            text.extend(fs::read(path)?);
        }
    }
    Ok(text)
}
