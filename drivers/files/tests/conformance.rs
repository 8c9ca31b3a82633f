//! What POSIX and Linux promise about files, asked of two nodes' mounts of one volume.

mod common;

use common::{Fabric, in_private_namespace, shell};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    thread,
    time::{Duration, Instant},
};

fn fill(lower: &Path) {
    fs::create_dir_all(lower.join("d/sub")).expect("mkdir");
    fs::write(lower.join("f"), "lower f").expect("write");
    fs::write(lower.join("d/x"), "lower x").expect("write");
    fs::write(lower.join("d/sub/deep"), "deep").expect("write");
    fs::hard_link(lower.join("d/x"), lower.join("d/y")).expect("link");
    symlink("d/x", lower.join("l")).expect("symlink");
    fs::set_permissions(lower.join("f"), fs::Permissions::from_mode(0o4755)).expect("chmod");
}

fn with_two(test: &str, body: impl FnOnce(&Fabric)) {
    in_private_namespace(test, || {
        let fabric = Fabric::start(2, fill);
        body(&fabric);
    });
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).expect("open to append")
}

#[test]
fn the_lower_shows_and_stays_as_it_is() {
    with_two("the_lower_shows_and_stays_as_it_is", |fabric| {
        assert_eq!(text(&fabric.at(0, "l")), "lower x");
        assert_eq!(text(&fabric.at(1, "d/sub/deep")), "deep");
        let mode = fs::metadata(fabric.at(0, "f")).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o755, "set-id bits are dropped");
        fs::write(fabric.at(0, "f"), "new").expect("write");
        fs::remove_file(fabric.at(1, "d/x")).expect("unlink");
        fs::rename(fabric.at(0, "d"), fabric.at(0, "e")).expect("rename");
        assert_eq!(text(&fabric.at(1, "e/y")), "lower x");
        assert_eq!(text(&fabric.at(1, "f")), "new");
        assert_eq!(text(&fabric.lower.join("f")), "lower f");
        assert_eq!(text(&fabric.lower.join("d/x")), "lower x");
    });
}

/// unlink(2): the file lives on until the last descriptor is closed.
#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    with_two("an_unlinked_file_lives_while_it_is_open", |fabric| {
        for name in ["f", "fresh"] {
            let path = fabric.at(1, name);
            let mut file = OpenOptions::new();
            let file = file.read(true).write(true).create(true).truncate(false);
            let mut file = file.open(&path).expect("open");
            fs::remove_file(fabric.at(0, name)).expect("unlink elsewhere");
            assert_eq!(file.metadata().expect("fstat").nlink(), 0);
            file.write_all(b"still here").expect("write");
            file.seek(SeekFrom::Start(0)).expect("seek");
            let mut back = String::new();
            file.read_to_string(&mut back).expect("read");
            assert_eq!(back, "still here");
            assert_eq!(fs::metadata(&path).expect_err("no name").kind(), ErrorKind::NotFound);
        }
    });
}

/// rename(2): replaces at once; an open of what was replaced still reads it.
#[test]
fn rename_replaces_what_others_have_open() {
    with_two("rename_replaces_what_others_have_open", |fabric| {
        let old = File::open(fabric.at(1, "f")).expect("open");
        fs::write(fabric.at(0, "g"), "new f").expect("write");
        fs::rename(fabric.at(0, "g"), fabric.at(0, "f")).expect("rename");
        assert_eq!(text(&fabric.at(1, "f")), "new f");
        let mut data = [0; 7];
        old.read_exact_at(&mut data, 0).expect("read the old");
        assert_eq!(&data, b"lower f");
        assert!(fs::metadata(fabric.at(1, "g")).is_err());
    });
}

/// open(2), `O_APPEND`: positioning and writing are one step, from wherever.
#[test]
fn appends_of_two_nodes_lose_nothing() {
    with_two("appends_of_two_nodes_lose_nothing", |fabric| {
        const LINES: usize = 500;
        thread::scope(|scope| {
            for node in 0..2 {
                let mut file = append(&fabric.at(node, "log"));
                scope.spawn(move || {
                    for line in 0..LINES {
                        file.write_all(format!("node {node} line {line:04}\n").as_bytes())
                            .expect("append");
                    }
                });
            }
        });
        for node in 0..2 {
            let log = text(&fabric.at(node, "log"));
            for writer in 0..2 {
                let prefix = format!("node {writer} ");
                let lines: Vec<_> = log.lines().filter(|line| line.starts_with(&prefix)).collect();
                let expected: Vec<_> =
                    (0..LINES).map(|line| format!("{prefix}line {line:04}")).collect();
                assert_eq!(lines, expected, "as seen by node {node}");
            }
            assert_eq!(log.lines().count(), 2 * LINES);
        }
    });
}

/// write(2): a read that can be proved to come after a write returns the new data.
#[test]
fn a_write_shows_at_once_on_the_other_node() {
    with_two("a_write_shows_at_once_on_the_other_node", |fabric| {
        for (writer, reader) in [(0, 1), (1, 0)] {
            let name = format!("shared{writer}");
            let mut out = File::create(fabric.at(writer, &name)).expect("create");
            let input = File::open(fabric.at(reader, &name)).expect("open, empty");
            for round in 0..200_u32 {
                out.write_all(&round.to_ne_bytes()).expect("write");
                let mut data = [0; 4];
                input
                    .read_exact_at(&mut data, u64::from(round) * 4)
                    .expect("read what was written");
                assert_eq!(u32::from_ne_bytes(data), round);
                let size = fs::metadata(fabric.at(reader, &name)).expect("stat").len();
                assert_eq!(size, u64::from(round + 1) * 4);
            }
            for round in 0..50_u32 {
                out.write_all_at(&round.to_ne_bytes(), 0).expect("overwrite");
                let mut data = [0; 4];
                input.read_exact_at(&mut data, 0).expect("read");
                assert_eq!(u32::from_ne_bytes(data), round, "overwritten");
            }
        }
    });
}

/// The data of the lower may be in the other node's page cache, and open there, when they change.
#[test]
fn a_first_change_reaches_those_who_have_the_file_open() {
    with_two("a_first_change_reaches_those_who_have_the_file_open", |fabric| {
        let before = fs::metadata(fabric.at(0, "f")).expect("stat").ino();
        let open = File::open(fabric.at(1, "f")).expect("open");
        let mut data = [0; 7];
        open.read_exact_at(&mut data, 0).expect("read");
        assert_eq!(&data, b"lower f");
        let change = OpenOptions::new().write(true).open(fabric.at(0, "f")).expect("open");
        change.write_all_at(b"UPPER", 0).expect("write");
        open.read_exact_at(&mut data, 0).expect("read");
        assert_eq!(&data, b"UPPER f");
        assert_eq!(fs::metadata(fabric.at(1, "f")).expect("stat").ino(), before, "same inode");
        change.set_len(2).expect("truncate");
        assert_eq!(open.read_at(&mut data, 0).expect("read"), 2);
        assert_eq!(text(&fabric.at(1, "f")), "UP");
    });
}

/// A mapping sees what the other node wrote, as soon as the write has returned.
/// A node opens what it has read before without asking: not after a change.
#[test]
fn what_was_read_before_is_opened_as_it_is_now() {
    with_two("what_was_read_before_is_opened_as_it_is_now", |fabric| {
        let paths = [fabric.at(0, "d/x"), fabric.at(1, "d/x")];
        for round in 0..60 {
            let new = format!("round {round}");
            for path in paths.iter().chain(&paths) {
                text(path);
            }
            let writer = &paths[round % 2];
            match round % 3 {
                0 => fs::write(writer, &new).expect("write"),
                1 => {
                    let file = OpenOptions::new().write(true).open(writer).expect("open");
                    file.set_len(0).expect("truncate");
                    file.write_all_at(new.as_bytes(), 0).expect("write");
                }
                _ => {
                    fs::write(writer.with_file_name("new"), &new).expect("write");
                    fs::rename(writer.with_file_name("new"), writer).expect("rename");
                }
            }
            assert_eq!([text(&paths[0]), text(&paths[1])], [new.clone(), new]);
        }
    });
}

/// A node answers for attributes that it was told, but not after it has changed something itself.
#[test]
fn attributes_are_those_after_a_node_s_own_changes() {
    with_two("attributes_are_those_after_a_node_s_own_changes", |fabric| {
        for path in [fabric.at(0, "d/x"), fabric.at(1, "d/x")] {
            let dir = path.parent().expect("d").to_owned();
            let stat = |path: &Path| {
                // Reading makes the kernel ask for the time of the last access.
                text(&fabric.at(1, "d/sub/deep"));
                fs::read_dir(&dir).expect("readdir").for_each(drop);
                fs::metadata(path).expect("stat")
            };
            let (links, subdirs) = (stat(&path).nlink(), stat(&dir).nlink());
            fs::hard_link(&path, dir.join("second")).expect("link");
            assert_eq!(stat(&path).nlink(), links + 1);
            fs::create_dir(dir.join("more")).expect("mkdir");
            assert_eq!(stat(&dir).nlink(), subdirs + 1);
            fs::remove_file(dir.join("second")).expect("unlink");
            assert_eq!(stat(&path).nlink(), links);
            fs::remove_dir(dir.join("more")).expect("rmdir");
            assert_eq!(stat(&dir).nlink(), subdirs);
            fs::write(&path, "longer than before").expect("write");
            assert_eq!((text(&path).len(), stat(&path).len()), (18, 18));
        }
    });
}

/// unlink(2): nobody has the file open, so that its data go, though nodes keep it ready.
#[test]
fn the_data_of_what_was_read_go_with_the_name() {
    with_two("the_data_of_what_was_read_go_with_the_name", |fabric| {
        for remover in [0, 1] {
            for replaced in [false, true] {
                fs::write(fabric.at(0, "g"), "data").expect("write");
                assert_eq!([text(&fabric.at(0, "g")), text(&fabric.at(1, "g"))], ["data", "data"]);
                if replaced {
                    fs::write(fabric.at(remover, "h"), "other").expect("write");
                    fs::rename(fabric.at(remover, "h"), fabric.at(remover, "g")).expect("rename");
                } else {
                    fs::remove_file(fabric.at(remover, "g")).expect("unlink");
                }
                let deadline = Instant::now() + Duration::from_secs(5);
                while fabric.objects() > usize::from(replaced) {
                    assert!(Instant::now() < deadline, "the data stay ({remover}, {replaced})");
                    // Nodes let go of it on their own: nobody is told of that.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            fs::remove_file(fabric.at(remover, "g")).expect("unlink");
        }
    });
}

#[test]
fn a_mapping_sees_the_other_nodes_writes() {
    with_two("a_mapping_sees_the_other_nodes_writes", |fabric| {
        let (a, b) = (fabric.at(0, "map"), fabric.at(1, "map"));
        let script = format!(
            r#"
import mmap, os
fd = os.open("{}", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"a" * 8192)
other = os.open("{}", os.O_RDWR)
reader = os.open("{}", os.O_RDONLY)
shared = mmap.mmap(other, 8192)
private = mmap.mmap(reader, 8192, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
for n in range(100):
    assert shared[0] == private[0] == (97 if n == 0 else n - 1), (n, shared[0], private[0])
    os.pwrite(fd, bytes([n]), 0)
    assert shared[0] == private[0] == n, (n, shared[0], private[0])
shared[5000:5003] = b"map"
shared.flush()
assert os.pread(fd, 3, 5000) == b"map"
print("ok")
"#,
            a.display(),
            b.display(),
            b.display()
        );
        let path = fabric.at(0, "map.py");
        fs::write(&path, script).expect("write");
        assert_eq!(shell(Path::new("/"), &format!("python3 {}", path.display())), "ok\n");
    });
}

/// Names, attributes and their absence are known on the other node when the call has returned.
#[test]
fn names_and_attributes_show_at_once_on_the_other_node() {
    with_two("names_and_attributes_show_at_once_on_the_other_node", |fabric| {
        for round in 0..100 {
            for (node, other) in [(0, 1), (1, 0)] {
                let name = format!("d/n{round}");
                assert!(fs::metadata(fabric.at(other, &name)).is_err());
                fs::write(fabric.at(node, &name), "x").expect("create");
                assert_eq!(fs::metadata(fabric.at(other, &name)).expect("seen").len(), 1);
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(fabric.at(node, &name), mode).expect("chmod");
                let seen = fs::metadata(fabric.at(other, &name)).expect("stat").mode();
                assert_eq!(seen & 0o777, 0o600);
                let moved = format!("d/sub/n{round}");
                fs::rename(fabric.at(node, &name), fabric.at(node, &moved)).expect("rename");
                assert!(fs::metadata(fabric.at(other, &name)).is_err());
                assert!(fs::metadata(fabric.at(other, &moved)).is_ok());
                fs::remove_file(fabric.at(other, &moved)).expect("unlink");
                assert!(fs::metadata(fabric.at(node, &moved)).is_err());
            }
        }
    });
}

/// open(2), `O_EXCL`: of all who try, one makes the file.
#[test]
fn an_exclusive_create_succeeds_once() {
    with_two("an_exclusive_create_succeeds_once", |fabric| {
        for round in 0..100 {
            let name = format!("lock{round}");
            let won = thread::scope(|scope| {
                let tries: Vec<_> = (0..4)
                    .map(|n| {
                        let path = fabric.at(n % 2, &name);
                        scope.spawn(move || File::create_new(path).is_ok())
                    })
                    .collect();
                tries
                    .into_iter()
                    .filter(|_| true)
                    .map(|t| usize::from(t.join().expect("join")))
                    .sum::<usize>()
            });
            assert_eq!(won, 1, "round {round}");
        }
    });
}

/// link(2), stat(2): one inode, counted names, one content; also for links that the lower had.
#[test]
fn hard_links_are_one_file() {
    with_two("hard_links_are_one_file", |fabric| {
        let x = fs::metadata(fabric.at(0, "d/x")).expect("stat");
        let y = fs::metadata(fabric.at(1, "d/y")).expect("stat");
        assert_eq!((x.ino(), x.nlink()), (y.ino(), 2));
        fs::write(fabric.at(0, "d/x"), "through x").expect("write");
        assert_eq!(text(&fabric.at(1, "d/y")), "through x");
        fs::hard_link(fabric.at(1, "d/y"), fabric.at(1, "z")).expect("link");
        assert_eq!(fs::metadata(fabric.at(0, "z")).expect("stat").nlink(), 3);
        fs::remove_file(fabric.at(0, "d/x")).expect("unlink");
        fs::remove_file(fabric.at(1, "d/y")).expect("unlink");
        assert_eq!(text(&fabric.at(0, "z")), "through x");
        assert_eq!(fs::metadata(fabric.at(1, "z")).expect("stat").nlink(), 1);
        let twice = fs::hard_link(fabric.at(0, "z"), fabric.at(0, "f")).expect_err("taken");
        assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    });
}

/// rmdir(2), getcwd(3): a removed working directory is empty and takes no names.
#[test]
fn a_removed_working_directory_takes_nothing() {
    with_two("a_removed_working_directory_takes_nothing", |fabric| {
        let away = fabric.at(1, "gone");
        let script = format!(
            "mkdir gone; cd gone; rmdir {}; ! touch a 2>/dev/null; ! ls x 2>/dev/null; \
             ls -a | wc -l; stat -c %h .; ! cd . 2>/dev/null || true; cd ..; ls f",
            away.display()
        );
        let printed = shell(&fabric.mounts[0], &script);
        assert!(printed.ends_with("f\n"), "{printed}");
    });
}

#[test]
fn special_files_links_and_attributes_work() {
    with_two("special_files_links_and_attributes_work", |fabric| {
        let m2 = fabric.mounts[1].display().to_string();
        let script = format!(
            r#"
mkfifo p; (echo through > p &); test "$(cat p)" = through
test -p {m2}/p
ln -s ../target s; test "$(readlink {m2}/s)" = ../target
touch -d '2001-02-03 04:05:06 UTC' f; test "$(stat -c %Y {m2}/f)" = 981173106
touch -d '2001-02-03 04:05:06 UTC' new; echo x > new; touch -d '1960-01-01 UTC' new
test "$(stat -c %Y {m2}/new)" = -315619200
chown 12:34 f; test "$(stat -c %u:%g {m2}/f)" = 12:34
mkdir g; chgrp 77 g; chmod g+s g; touch g/in; mkdir g/dir
test "$(stat -c %g {m2}/g/in)" = 77; test "$(stat -c %a {m2}/g/dir)" = 2755
truncate -s 1M sparse; test "$(stat -c %s {m2}/sparse)" = 1048576; test "$(stat -c %b sparse)" = 0
fallocate -l 64K pre; test "$(stat -c %s {m2}/pre)" = 65536
python3 -c 'import os
os.setxattr("f", "user.k", b"v"); assert os.getxattr("{m2}/f", "user.k") == b"v"
assert os.listxattr("{m2}/f") == ["user.k"]; os.removexattr("{m2}/f", "user.k"); assert os.listxattr("f") == []
fd = os.open("hole", os.O_RDWR | os.O_CREAT); os.pwrite(fd, b"x", 1 << 20)
assert os.lseek(fd, 0, os.SEEK_DATA) > 0 and os.lseek(fd, 0, os.SEEK_HOLE) == 0
os.symlink("x", b"\xff\xfe"); assert b"\xff\xfe" in os.listdir(b"{m2}")
assert os.statvfs("{m2}").f_bavail > 0
try: os.rename("d", "d/sub/d"); assert False
except OSError as e: assert e.errno == 22
try: os.rmdir("d"); assert False
except OSError as e: assert e.errno == 39
try: os.open("n" * 256, os.O_CREAT); assert False
except OSError as e: assert e.errno == 36
'
mkdir -p tree/a/b; cp -a d tree/a/b; rm -r {m2}/tree; test ! -e tree
"#
        );
        shell(&fabric.mounts[0], &script);
    });
}

#[test]
fn a_large_directory_is_listed_whole_and_removed_while_listed() {
    with_two("a_large_directory_is_listed_whole_and_removed_while_listed", |fabric| {
        let script = "mkdir big; cd big; seq 3000 | xargs touch; ls | wc -l; rm -r ../big; ls ..";
        let printed = shell(&fabric.mounts[1], script);
        assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["3000", "d", "f", "l"]);
        assert_eq!(fs::read_dir(&fabric.mounts[0]).expect("list").count(), 3);
    });
}

/// Never a hang: without the authority a request fails.
#[test]
fn without_the_authority_requests_fail_soon() {
    with_two("without_the_authority_requests_fail_soon", |fabric| {
        let open = File::open(fabric.at(1, "f")).expect("open");
        fabric.nodes.leave(dunix_ids::NodeId(1));
        let asked = Instant::now();
        let error = fs::metadata(fabric.at(1, "d/sub/deep")).expect_err("no authority");
        assert_eq!(error.raw_os_error(), Some(5), "EIO");
        let mut data = [0; 4];
        assert_eq!(open.read_at(&mut data, 0).expect_err("no data").raw_os_error(), Some(5));
        assert!(asked.elapsed() < Duration::from_secs(5));
    });
}

/// What a node that is gone had open is closed: its unlinked files go.
#[test]
fn a_node_that_is_gone_keeps_nothing_open() {
    with_two("a_node_that_is_gone_keeps_nothing_open", |fabric| {
        let mut file = File::create(fabric.at(1, "t")).expect("create");
        file.write_all(&[1; 1 << 16]).expect("write");
        fs::remove_file(fabric.at(0, "t")).expect("unlink");
        let objects = fabric.lower.with_file_name("upper").join("objects");
        let count = || shell(&objects, "find . -type f | wc -l").trim().to_string();
        assert_eq!(count(), "1");
        fabric.nodes.leave(dunix_ids::NodeId(2));
        let deadline = Instant::now() + Duration::from_secs(10);
        while count() != "0" {
            assert!(Instant::now() < deadline, "the object is still there");
            thread::yield_now();
        }
        drop(file);
    });
}

/// A node that lost the authority for a while sees what changed meanwhile, and its open files again.
#[test]
fn a_node_that_was_cut_off_shows_nothing_old() {
    with_two("a_node_that_was_cut_off_shows_nothing_old", |fabric| {
        let open = File::open(fabric.at(1, "f")).expect("open");
        assert_eq!(text(&fabric.at(1, "f")), "lower f");
        assert!(fs::metadata(fabric.at(1, "d/n")).is_err());
        let node = dunix_ids::NodeId(2);
        let cut = fabric.nodes.leave(node).expect("it was there");
        fs::write(fabric.at(0, "f"), "while away").expect("write");
        fs::write(fabric.at(0, "d/n"), "n").expect("write");
        fabric.nodes.join(node, cut);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut data = [0; 10];
        while !matches!(open.read_at(&mut data, 0), Ok(10)) || &data != b"while away" {
            assert!(Instant::now() < deadline, "the open file shows {data:?}");
            thread::yield_now();
        }
        assert_eq!(text(&fabric.at(1, "f")), "while away");
        assert_eq!(text(&fabric.at(1, "d/n")), "n");
        fs::remove_file(fabric.at(0, "f")).expect("unlink");
        assert_eq!(open.read_at(&mut data, 0).expect("it is still open"), 10);
    });
}

/// The lower should be at rest; a file that goes there all the same leaves no ghost.
#[test]
fn what_vanishes_below_leaves_no_ghost() {
    with_two("what_vanishes_below_leaves_no_ghost", |fabric| {
        assert_eq!(fs::read_dir(fabric.at(0, "d")).expect("list").count(), 3);
        fs::remove_file(fabric.lower.join("d/sub/deep")).expect("unlink");
        fs::remove_dir(fabric.lower.join("d/sub")).expect("rmdir");
        assert!(fs::metadata(fabric.at(1, "d/sub")).is_err());
        assert_eq!(fs::read_dir(fabric.at(0, "d")).expect("list").count(), 2);
        fs::write(fabric.at(0, "d/sub"), "a file now").expect("create");
        fs::remove_dir_all(fabric.at(1, "d")).expect("remove");
    });
}

/// What is mounted on a name stays there when names are recalled.
#[test]
fn mounts_on_the_tree_stay_when_names_are_recalled() {
    with_two("mounts_on_the_tree_stay_when_names_are_recalled", |fabric| {
        let on = fabric.at(1, "d/sub");
        shell(Path::new("/"), &format!("mount -t tmpfs none {}; touch {0}/here", on.display()));
        for round in 0..20 {
            assert!(fs::metadata(fabric.at(1, "d/absent")).is_err());
            fs::write(fabric.at(0, &format!("d/n{round}")), "x").expect("write");
            assert!(fs::metadata(fabric.at(1, &format!("d/n{round}"))).is_ok());
            assert!(fs::metadata(on.join("here")).is_ok(), "round {round}");
        }
        shell(Path::new("/"), &format!("umount {}", on.display()));
    });
}

/// Nodes that change one directory at the same time do not wait for each other's recalls.
#[test]
fn two_nodes_change_one_directory_without_waiting() {
    with_two("two_nodes_change_one_directory_without_waiting", |fabric| {
        let started = Instant::now();
        thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for round in 0..200 {
                        let path = fabric.at(worker % 2, &format!("d/w{worker}-{round}"));
                        fs::write(&path, "x").expect("create");
                        let peer = fabric.at((worker + 1) % 2, &format!("d/w{worker}-{round}"));
                        assert!(fs::metadata(peer).is_ok());
                        fs::remove_file(&path).expect("unlink");
                    }
                });
            }
        });
        let took = started.elapsed();
        assert!(took < dunix_files::RECALL_DEADLINE, "{took:?}");
        assert_eq!(fs::read_dir(fabric.at(0, "d")).expect("list").count(), 3);
    });
}
