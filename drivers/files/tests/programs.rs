//! Real programs on the tree: the host's own, run below a mount of the host's root.

mod common;

use common::{Fabric, in_private_namespace, shell};
use std::path::Path;

/// Runs a script with a node's mount as its root.
fn inside(fabric: &Fabric, node: usize, script: &str) -> String {
    let root = fabric.mounts[node].display();
    let quoted = script.replace('\'', r"'\''");
    shell(Path::new("/"), &format!("chroot {root} /bin/sh -euc '{quoted}'"))
}

fn with_root(test: &str, body: impl FnOnce(&Fabric)) {
    in_private_namespace(test, || {
        let fabric = Fabric::over_root(2);
        for node in 0..2 {
            let root = fabric.mounts[node].display();
            shell(Path::new("/"), &format!("mount --bind /dev {root}/dev"));
            inside(&fabric, node, "mkdir -p /tmp/work");
        }
        body(&fabric);
    });
}

const PROJECT: &str = r#"
cd /tmp/work; mkdir -p p; cd p
for n in 1 2 3 4 5 6 7 8; do
  printf '#include "all.h"\nint f%d(void) { return %d; }\n' $n $n > f$n.c
  echo "int f$n(void);" >> all.h
done
printf '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%%d\\n", f1()+f2()+f3()+f4()+f5()+f6()+f7()+f8()); return 0; }\n' > main.c
printf 'O = $(patsubst %%.c,%%.o,$(wildcard *.c))\nprog: $(O)\n\tgcc -o $@ $^\n$(O): all.h\n' > Makefile
"#;

#[test]
fn a_project_is_made_on_one_node_and_run_on_the_other() {
    with_root("a_project_is_made_on_one_node_and_run_on_the_other", |fabric| {
        inside(fabric, 0, PROJECT);
        inside(fabric, 1, "cd /tmp/work/p && make -j4 >make.log 2>&1");
        assert_eq!(inside(fabric, 0, "/tmp/work/p/prog"), "36\n");
        inside(fabric, 0, "cd /tmp/work/p && sed -i 's/return 8/return 9/' f8.c");
        inside(fabric, 1, "cd /tmp/work/p && make -q && exit 1; make -j4 >make.log 2>&1; make -q");
        assert_eq!(inside(fabric, 0, "/tmp/work/p/prog"), "37\n");
        assert_eq!(inside(fabric, 1, "/tmp/work/p/prog"), "37\n");
    });
}

#[test]
fn git_commits_on_one_node_and_clones_on_the_other() {
    with_root("git_commits_on_one_node_and_clones_on_the_other", |fabric| {
        inside(fabric, 0, PROJECT);
        let git = "export HOME=/tmp/work GIT_CONFIG_NOSYSTEM=1; git config --global user.name n; \
                   git config --global user.email n@example.org;";
        inside(
            fabric,
            0,
            &format!("{git} cd /tmp/work/p; git init -q; git add .; git commit -q -m one"),
        );
        let script = format!(
            "{git} cd /tmp/work; git clone -q p q 2>&1; cd q; git mv main.c start.c; \
             git commit -q -a -m two; git fsck --strict 2>&1; git log --format=%s; git status --short"
        );
        assert_eq!(inside(fabric, 1, &script).lines().collect::<Vec<_>>(), ["two", "one"]);
        assert_eq!(inside(fabric, 0, "test -f /tmp/work/q/start.c; echo ok"), "ok\n");
    });
}

#[test]
fn an_archive_comes_out_as_it_went_in() {
    with_root("an_archive_comes_out_as_it_went_in", |fabric| {
        let script = "cd /tmp/work; mkdir in; cp -a /etc/init.d /etc/alternatives in/; \
                      ln in/init.d/* in/ 2>/dev/null || true; mkfifo in/fifo; chmod 1777 in; \
                      tar cf a.tar in; mkdir out; ls -R in | wc -l";
        let entries: u32 = inside(fabric, 0, script).trim().parse().expect("a count");
        assert!(entries > 10, "{entries}");
        inside(fabric, 1, "cd /tmp/work/out; tar xpf ../a.tar; tar df ../a.tar");
        let list = "find . -printf '%P %y %m %U %G %n %l %s %T@\\n' | sed 's/ 4096 / dir /' | sort";
        let of = |dir: &str, node| inside(fabric, node, &format!("cd /tmp/work/{dir}; {list}"));
        let whole_seconds = |listing: String| {
            let trim = |line: &str| line.rsplit_once('.').map_or(line, |cut| cut.0).to_string();
            listing.lines().map(trim).collect::<Vec<_>>()
        };
        assert_eq!(whole_seconds(of("in", 1)), whole_seconds(of("out/in", 0)));
    });
}

#[test]
fn sqlite_commits_on_one_node_and_reads_on_the_other() {
    with_root("sqlite_commits_on_one_node_and_reads_on_the_other", |fabric| {
        let make = "cd /tmp/work; sqlite3 db 'create table t(n integer primary key, s text); \
                    with recursive c(n) as (select 1 union all select n+1 from c where n<2000) \
                    insert into t select n, hex(n) from c;'";
        inside(fabric, 0, make);
        inside(fabric, 1, "sqlite3 /tmp/work/db 'update t set s = 1; vacuum;'");
        let check =
            "sqlite3 /tmp/work/db 'select count(*), sum(s) from t; pragma integrity_check;'";
        for node in 0..2 {
            assert_eq!(inside(fabric, node, check), "2000|2000\nok\n");
        }
    });
}
