//! Scenarios, and a run of random verbs against a plain model of directories.

use super::*;
use crate::tree::{DEAD_MAX, LowerEntry, LowerStat};
use alloc::{string::String, vec};
use proptest::prelude::*;

const NOW: Time = Time { secs: 5, nanos: 0 };

fn attr(kind: Kind, nlink: u32) -> Attr {
    Attr {
        ino: Ino(0),
        kind,
        mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 1,
        blocks: 8,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        xattrs: false,
    }
}

fn new(kind: Kind) -> New {
    let caller = Caller { uid: 1000, gid: 1000 };
    New { kind, mode: 0o755, rdev: 0, caller, target: vec![] }
}

/// A lower with `/d` (holding `x` and `y`, one file), `/f` and the empty `/e`.
fn answer(tree: &mut Tree, need: Need) -> Errno {
    let entry = |name: &[u8], kind, ino| LowerEntry { name: name.to_vec(), kind, id: (1, ino) };
    match need {
        Need::List(ino, path) => tree.listed(
            ino,
            match path.as_slice() {
                b"" => vec![
                    entry(b"d", Kind::Directory, 2),
                    entry(b"e", Kind::Directory, 3),
                    entry(b"f", Kind::File, 4),
                ],
                b"d" => vec![entry(b"x", Kind::File, 5), entry(b"y", Kind::File, 5)],
                _ => vec![],
            },
        ),
        Need::Stat(ino, path) => {
            let (kind, nlink) = match path.as_slice() {
                b"" => (Kind::Directory, 4),
                b"d" | b"e" => (Kind::Directory, 2),
                b"f" => (Kind::File, 1),
                _ => (Kind::File, 2),
            };
            tree.statted(ino, LowerStat { attr: attr(kind, nlink), target: vec![] });
        }
        Need::Refused(errno) => return errno,
    }
    Errno(0)
}

fn ask<T>(tree: &mut Tree, mut verb: impl FnMut(&mut Tree) -> Result<T, Need>) -> Result<T, Errno> {
    for _ in 0..16 {
        match verb(tree) {
            Ok(value) => return Ok(value),
            Err(need) => match answer(tree, need) {
                Errno(0) => {}
                errno => return Err(errno),
            },
        }
    }
    panic!("needs without end");
}

fn find(tree: &mut Tree, path: &str) -> Result<Ino, Errno> {
    let mut at = Ino::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = ask(tree, |tree| tree.lookup(at, name.as_bytes()))?;
    }
    Ok(at)
}

#[test]
fn hard_links_of_the_lower_share_a_number() {
    let mut tree = Tree::new();
    let x = find(&mut tree, "d/x").expect("x");
    assert_eq!(find(&mut tree, "d/y"), Ok(x));
    let d = find(&mut tree, "d").expect("d");
    let removed = ask(&mut tree, |tree| tree.unlink(d, b"x", NOW)).expect("unlink");
    assert!(!removed.gone);
    assert_eq!(tree.attr(x).map(|attr| attr.nlink), Ok(1));
    assert!(ask(&mut tree, |tree| tree.unlink(d, b"y", NOW)).expect("unlink").gone);
    tree.check_invariants();
}

#[test]
fn a_lower_directory_is_moved_with_all_that_lies_below() {
    let mut tree = Tree::new();
    let x = find(&mut tree, "d/x").expect("x");
    let e = find(&mut tree, "e").expect("e");
    let moved =
        ask(&mut tree, |tree| tree.rename((Ino::ROOT, b"d"), (e, b"z"), RenameMode::Replace, NOW));
    assert_eq!(moved, Ok(None));
    assert_eq!(find(&mut tree, "e/z/x"), Ok(x));
    assert_eq!(find(&mut tree, "d"), Err(Errno::ENOENT));
    assert_eq!(tree.content(x), Ok((Content::Lower, b"d/x".to_vec())));
    assert_eq!(tree.attr(e).map(|attr| attr.nlink), Ok(3));
    tree.check_invariants();
}

#[test]
fn a_directory_cannot_go_below_itself() {
    let mut tree = Tree::new();
    let e = find(&mut tree, "e").expect("e");
    let into =
        ask(&mut tree, |tree| tree.rename((Ino::ROOT, b"e"), (e, b"e"), RenameMode::Replace, NOW));
    assert_eq!(into, Err(Errno::EINVAL));
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut tree = Tree::new();
    let f = find(&mut tree, "f").expect("f");
    tree.opened(f).expect("open");
    assert!(!ask(&mut tree, |tree| tree.unlink(Ino::ROOT, b"f", NOW)).expect("unlink").gone);
    assert_eq!(tree.attr(f).map(|attr| attr.nlink), Ok(0));
    tree.opened(f).expect("it can be opened again through /proc");
    assert!(!tree.closed(f));
    assert!(tree.closed(f));
    assert_eq!(tree.opened(f), Err(Errno::ESTALE));
}

#[test]
fn a_name_that_vanished_below_is_free() {
    let mut tree = Tree::new();
    let root = ask(&mut tree, |tree| tree.readdir(Ino::ROOT, 0, 4096)).expect("readdir");
    assert_eq!((root.0.len(), root.1), (5, true));
    tree.vanished(Ino::ROOT, b"f");
    assert_eq!(find(&mut tree, "f"), Err(Errno::ENOENT));
    let made = ask(&mut tree, |tree| tree.create(Ino::ROOT, b"f", new(Kind::File), NOW));
    tree.vanished(Ino::ROOT, b"f");
    assert_eq!(find(&mut tree, "f"), Ok(made.expect("create").ino), "what is known stays");
    tree.check_invariants();
}

#[test]
fn a_removed_directory_takes_no_names() {
    let mut tree = Tree::new();
    let e = find(&mut tree, "e").expect("e");
    ask(&mut tree, |tree| tree.rmdir(Ino::ROOT, b"e", NOW)).expect("rmdir");
    let made = ask(&mut tree, |tree| tree.create(e, b"n", new(Kind::File), NOW));
    assert_eq!(made, Err(Errno::ENOENT));
    assert_eq!(tree.attr(e).map(|attr| attr.nlink), Ok(0));
}

#[test]
fn the_dead_are_forgotten_in_the_end() {
    let mut tree = Tree::new();
    let mut first = None;
    for _ in 0..=DEAD_MAX {
        let made = ask(&mut tree, |tree| tree.create(Ino::ROOT, b"n", new(Kind::File), NOW));
        first.get_or_insert(made.expect("create").ino);
        ask(&mut tree, |tree| tree.unlink(Ino::ROOT, b"n", NOW)).expect("unlink");
    }
    assert_eq!(tree.attr(first.expect("one")), Err(Need::Refused(Errno::ESTALE)));
    tree.check_invariants();
}

#[test]
fn a_listing_goes_on_where_it_stopped_whatever_was_removed() {
    let mut tree = Tree::new();
    for n in 0..50 {
        let name = alloc::format!("n{n}");
        ask(&mut tree, |tree| tree.create(Ino::ROOT, name.as_bytes(), new(Kind::File), NOW))
            .expect("create");
    }
    let (mut after, mut seen) = (0, 0);
    loop {
        let page = ask(&mut tree, |tree| tree.readdir(Ino::ROOT, after, 200)).expect("readdir").0;
        let Some(last) = page.last() else { break };
        after = last.cookie;
        for entry in page {
            seen += 1;
            if entry.name.0.starts_with(b"n") {
                ask(&mut tree, |tree| tree.unlink(Ino::ROOT, &entry.name.0, NOW)).expect("unlink");
            }
        }
    }
    assert_eq!(seen, 2 + 3 + 50);
}

/// The model: path -> what is there, a file being known by the order of its making.
type Model = BTreeMap<String, Option<u32>>;

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

fn below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn is_dir(model: &Model, path: &str) -> bool {
    path.is_empty() || model.get(path) == Some(&None)
}

fn empty(model: &Model, path: &str) -> bool {
    !model.keys().any(|other| below(other, path))
}

fn model_rename(model: &mut Model, from: &str, to: &str) -> bool {
    let Some(&what) = model.get(from) else { return false };
    if !is_dir(model, parent_of(to)) || below(to, from) {
        return false;
    }
    match (what, model.get(to)) {
        (_, None) => {}
        _ if from == to => return true,
        (Some(a), Some(Some(b))) if a == *b => return true,
        (Some(_), Some(None)) | (None, Some(Some(_))) => return false,
        (None, Some(None)) if !empty(model, to) => return false,
        _ => {}
    }
    let moved: Vec<(String, Option<u32>)> = model
        .iter()
        .filter(|(path, _)| *path == from || below(path, from))
        .map(|(path, what)| (path.clone(), *what))
        .collect();
    for (path, _) in &moved {
        model.remove(path);
    }
    for (path, what) in moved {
        model.insert(alloc::format!("{to}{}", &path[from.len()..]), what);
    }
    true
}

fn lower_model() -> Model {
    [("/d", None), ("/e", None), ("/f", Some(0)), ("/d/x", Some(1)), ("/d/y", Some(1))]
        .into_iter()
        .map(|(path, what)| (String::from(path), what))
        .collect()
}

fn split(tree: &mut Tree, path: &str) -> Result<(Ino, Vec<u8>), Errno> {
    let parent = find(tree, parent_of(path))?;
    Ok((parent, path.rsplit('/').next().unwrap_or_default().as_bytes().to_vec()))
}

fn compare(tree: &mut Tree, model: &Model) -> Result<(), TestCaseError> {
    let mut inos: BTreeMap<u32, Ino> = BTreeMap::new();
    for (path, what) in model {
        let ino = find(tree, path).expect("the model's path");
        let attr = ask(tree, |tree| tree.attr(ino)).expect("attr");
        match what {
            None => {
                prop_assert_eq!(attr.kind, Kind::Directory);
                let (entries, end) =
                    ask(tree, |tree| tree.readdir(ino, 2, 1 << 20)).expect("readdir");
                prop_assert!(end);
                let direct = model.keys().filter(|other| parent_of(other) == path).count();
                prop_assert_eq!(entries.len(), direct, "{}", path);
                let subdirs =
                    model.iter().filter(|(other, what)| what.is_none() && parent_of(other) == path);
                prop_assert_eq!(attr.nlink as usize, 2 + subdirs.count(), "{}", path);
            }
            Some(id) => {
                prop_assert_eq!(*inos.entry(*id).or_insert(ino), ino, "{}", path);
                let names = model.values().filter(|other| *other == what).count();
                prop_assert_eq!(attr.nlink as usize, names, "{}", path);
            }
        }
    }
    let distinct: alloc::collections::BTreeSet<Ino> = inos.values().copied().collect();
    prop_assert_eq!(distinct.len(), inos.len(), "two files under one number");
    Ok(())
}

proptest! {
    #[test]
    fn it_behaves_like_directories(
        steps in proptest::collection::vec((0_u8..6, "(/[def]|/[de]/[dxy]|/[de]/[d]/[xy])", "(/[def]|/[de]/[dxy]|/[de]/[d]/[xy])"), 1..60)
    ) {
        let mut tree = Tree::new();
        let mut model = lower_model();
        let mut made = 1;
        for (verb, a, b) in steps {
            let free = !model.contains_key(&a) && is_dir(&model, parent_of(&a));
            let at = split(&mut tree, &a);
            let (expected, got) = match verb {
                0 | 1 => {
                    let kind = if verb == 0 { Kind::File } else { Kind::Directory };
                    if free {
                        made += 1;
                        model.insert(a.clone(), (verb == 0).then_some(made));
                    }
                    (free, at.and_then(|(dir, name)| ask(&mut tree, |tree| tree.create(dir, &name, new(kind), NOW))).is_ok())
                }
                2 => {
                    let can = matches!(model.get(&a), Some(Some(_)));
                    if can { model.remove(&a); }
                    (can, at.and_then(|(dir, name)| ask(&mut tree, |tree| tree.unlink(dir, &name, NOW))).is_ok())
                }
                3 => {
                    let can = model.get(&a) == Some(&None) && empty(&model, &a);
                    if can { model.remove(&a); }
                    (can, at.and_then(|(dir, name)| ask(&mut tree, |tree| tree.rmdir(dir, &name, NOW))).is_ok())
                }
                4 => {
                    let file = model.get(&b).copied().flatten();
                    let got = find(&mut tree, &b).and_then(|ino| {
                        let (dir, name) = at?;
                        ask(&mut tree, |tree| tree.link(ino, dir, &name, NOW))
                    }).is_ok();
                    if let (true, Some(id)) = (free, file) { model.insert(a.clone(), Some(id)); }
                    (free && file.is_some(), got)
                }
                _ => {
                    let to = split(&mut tree, &b);
                    let got = at.and_then(|from| {
                        let to = to?;
                        ask(&mut tree, |tree| tree.rename((from.0, &from.1), (to.0, &to.1), RenameMode::Replace, NOW))
                    }).is_ok();
                    (model_rename(&mut model, &a, &b), got)
                }
            };
            prop_assert_eq!(expected, got, "verb {} {} {}", verb, a, b);
            tree.check_invariants();
            compare(&mut tree, &model)?;
        }
    }
}
