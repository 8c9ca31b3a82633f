//! The volume against a plain directory: the same random calls, on nodes taken at random, end in the
//! same tree, and succeed or fail alike.

mod common;

use common::{Fabric, in_private_namespace};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
enum Verb {
    Write(&'static str, u64, u8),
    Append(&'static str, u8),
    Truncate(&'static str, u64),
    Replace(&'static str, u8),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str),
    Unlink(&'static str),
    Mkdir(&'static str),
    Rmdir(&'static str),
    RemoveAll(&'static str),
    Chmod(&'static str, u32),
}

const PATHS: &[&str] =
    &["a", "b", "d", "d/a", "d/b", "e", "e/a", "e/d", "d/e", "d/e/a", "e/d/b", "l"];

fn fill(root: &Path) {
    fs::create_dir_all(root.join("d/e")).expect("mkdir");
    fs::create_dir_all(root.join("e")).expect("mkdir");
    fs::write(root.join("a"), [7; 5000]).expect("write");
    fs::write(root.join("d/a"), "d a").expect("write");
    fs::write(root.join("d/e/a"), "deep").expect("write");
    fs::hard_link(root.join("d/a"), root.join("d/b")).expect("link");
    symlink("d/a", root.join("l")).expect("symlink");
}

fn run(root: &Path, verb: &Verb) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    match verb {
        Verb::Write(path, offset, byte) => {
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).open(at(path))?;
            file.write_all_at(&[*byte; 300], *offset)
        }
        Verb::Append(path, byte) => {
            OpenOptions::new().append(true).open(at(path))?.write_all(&[*byte; 70])
        }
        Verb::Truncate(path, size) => OpenOptions::new().write(true).open(at(path))?.set_len(*size),
        Verb::Replace(path, byte) => fs::write(at(path), [*byte; 10]),
        Verb::Rename(from, to) => fs::rename(at(from), at(to)),
        Verb::Link(from, to) => fs::hard_link(at(from), at(to)),
        Verb::Symlink(path) => symlink("d/a", at(path)),
        Verb::Unlink(path) => fs::remove_file(at(path)),
        Verb::Mkdir(path) => fs::create_dir(at(path)),
        Verb::Rmdir(path) => fs::remove_dir(at(path)),
        Verb::RemoveAll(path) => fs::remove_dir_all(at(path)),
        Verb::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)),
    }
}

fn verbs() -> impl Strategy<Value = Verb> {
    let path = || proptest::sample::select(PATHS);
    prop_oneof![
        (path(), 0..9000_u64, any::<u8>()).prop_map(|(p, o, b)| Verb::Write(p, o, b)),
        (path(), any::<u8>()).prop_map(|(p, b)| Verb::Append(p, b)),
        (path(), 0..9000_u64).prop_map(|(p, s)| Verb::Truncate(p, s)),
        (path(), any::<u8>()).prop_map(|(p, b)| Verb::Replace(p, b)),
        (path(), path()).prop_map(|(a, b)| Verb::Rename(a, b)),
        (path(), path()).prop_map(|(a, b)| Verb::Rename(a, b)),
        (path(), path()).prop_map(|(a, b)| Verb::Link(a, b)),
        path().prop_map(Verb::Symlink),
        path().prop_map(Verb::Unlink),
        path().prop_map(Verb::Mkdir),
        path().prop_map(Verb::Rmdir),
        path().prop_map(Verb::RemoveAll),
        (path(), 0o400..0o777_u32).prop_map(|(p, m)| Verb::Chmod(p, m | 0o700)),
    ]
}

/// What there is below a directory: kind, mode, links, data; inodes by the first path that has them.
fn describe(root: &Path) -> BTreeMap<PathBuf, (u32, u64, PathBuf, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let listed = fs::read_dir(root.join(&dir)).expect("list");
        let mut names: Vec<_> = listed.map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).expect("stat");
            let data = if meta.is_file() {
                fs::read(&full).expect("read")
            } else if meta.is_symlink() {
                fs::read_link(&full).expect("readlink").into_os_string().into_encoded_bytes()
            } else {
                todo.push(path.clone());
                Vec::new()
            };
            if meta.is_file() {
                assert_eq!(meta.len(), data.len() as u64, "{}", path.display());
            }
            let same = first.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
            found.insert(path, (meta.mode(), meta.nlink(), same, data));
        }
    }
    found
}

fn clear(root: &Path) {
    for entry in fs::read_dir(root).expect("list") {
        let path = entry.expect("entry").path();
        let is_dir = fs::symlink_metadata(&path).expect("stat").is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("remove");
    }
}

#[test]
fn it_behaves_like_a_plain_directory() {
    in_private_namespace("it_behaves_like_a_plain_directory", || {
        const CASES: u32 = 48;
        let fabric = Fabric::start(2, |lower| {
            for case in 0..CASES * 2 {
                let root = lower.join(case.to_string());
                fs::create_dir(&root).expect("mkdir");
                fill(&root);
            }
        });
        let plain = fabric.lower.with_file_name("plain");
        fs::create_dir(&plain).expect("mkdir");
        let case = std::cell::Cell::new(0_u32);
        let config = ProptestConfig {
            cases: CASES,
            failure_persistence: None,
            // A case needs a fresh lower; there are as many again for shrinking.
            max_shrink_iters: CASES - 1,
            ..ProptestConfig::default()
        };
        let steps = proptest::collection::vec((verbs(), 0..2_usize), 1..40);
        TestRunner::new(config)
            .run(&steps, |steps| {
                let root = case.get().to_string();
                case.set(case.get() + 1);
                clear(&plain);
                fill(&plain);
                for (verb, node) in steps {
                    let expected = run(&plain, &verb).map_err(|error| error.raw_os_error());
                    let got = run(&fabric.at(node, &root), &verb).map_err(|e| e.raw_os_error());
                    prop_assert_eq!(expected, got, "{:?} on node {}", verb, node);
                }
                let expected = describe(&plain);
                for node in 0..2 {
                    prop_assert_eq!(&expected, &describe(&fabric.at(node, &root)));
                }
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    });
}
