# Programs of every day: a case is a function whose name begins with case_, in a folder of its own.
# Sourced with the wanted cases in $CASES; each verdict is appended to $RESULTS.

# Waits until a command succeeds: servers take a while to be there.
until_it() {
    for _ in $(seq 200); do
        "$@" > /dev/null 2>&1 && return
        sleep 0.05
    done
    echo "not within 10 s: $*"
    return 1
}

free_port() {
    perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'
}

same() {
    [ "$1" = "$2" ] && return
    echo "expected '$2', found '$1'"
    return 1
}

case_bash() {
    same "$(bash -c 'set -m; sleep 9 & p=$!; kill -STOP $p; until jobs %1 | grep Stopped; do sleep .1; done > /dev/null; kill -KILL $p; until wait $p; s=$?; [ $s != 147 ]; do :; done; echo $s' 2> /dev/null)" 137 &&
    same "$(bash -c 'exec 3<> >(cat); coproc tr a-z A-Z; echo abc >&${COPROC[1]}; exec {COPROC[1]}>&-; cat <&${COPROC[0]}')" ABC &&
    same "$(bash -c 'trap "echo caught" USR1; kill -USR1 $$; (trap - USR1; kill -TERM $BASHPID); echo $?')" $'caught\n143'
}

case_dash() {
    same "$(dash -c 'a=$(echo x | sed s/x/y/); echo $a; (exit 4); echo $?; trap "echo bye" EXIT')" $'y\n4\nbye'
}

case_zsh() {
    same "$(zsh -fc 'sleep .1 & p=$!; wait $p; print $?; x=(3 1 2); print ${(o)x}; print $(print -l a b | wc -l)')" $'0\n1 2 3\n2' &&
    same "$(zsh -fc 'zmodload zsh/zpty; zpty t cat; zpty -w t hello; zpty -r t line; print ${line%%$'"'\r\n'"'}; zpty -d t')" hello
}

case_vim() {
    printf 'one\ntwo\n' > text
    vim -Nu NONE -es -c '%s/o/0/g' -c 'r !echo from a shell' -c wq text < /dev/null
    same "$(cat text)" $'0ne\ntw0\nfrom a shell'
}

case_tmux() {
    export TMUX_TMPDIR=$PWD TERM=xterm
    tmux -f /dev/null new-session -d -s s -x 80 -y 24 'PS1=ready: bash --norc' &&
    tmux send-keys -t s 'echo $((6 * 7)); tty > tty' Enter &&
    until_it bash -c 'tmux capture-pane -p -t s | grep -qx 42' && grep -q pts tty &&
    tmux split-window -t s 'sleep 100' && same "$(tmux list-panes -t s | wc -l)" 2
    local status=$?
    tmux kill-server
    return $status
}

case_ssh() {
    local port
    port=$(free_port)
    # Root of a user namespace does not own the machine's.
    mkdir -p /run/sshd 2> /dev/null
    [ -O /run/sshd ] || mount -t tmpfs -o mode=755 tmpfs /run/sshd
    # An account with a locked password is refused; the machine's list is not ours to change.
    echo 'root:*:19000:0:99999:7:::' > shadow && chmod 600 shadow && mount --bind shadow /etc/shadow || return
    ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f user &&
    cp user.pub keys && chmod 600 keys &&
    printf '%s\n' "Port $port" 'ListenAddress 127.0.0.1' "HostKey $PWD/host" "AuthorizedKeysFile $PWD/keys" \
        'StrictModes no' 'UsePAM no' 'PermitRootLogin yes' "PidFile $PWD/pid" > config || return
    /usr/sbin/sshd -f config -E "$PWD/log" || { cat log; return 1; }
    local reach=(ssh -F /dev/null -i user -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=known root@127.0.0.1)
    same "$(echo text | "${reach[@]}" 'cat; echo to-stderr >&2; exit 7' 2> error; echo $?)" $'text\n7' &&
    same "$("${reach[@]}" -tt 'test -t 0 && stty size | wc -w' < /dev/null 2> error | tail -n 1 | tr -d '\r')" 2
    local status=$?
    [ $status = 0 ] || tail -n 4 log error
    kill "$(cat pid)"
    return $status
}

case_git() {
    git init -q a && cd a && git config user.name n && git config user.email e@x &&
    seq 1000 > file && git add . && git commit -qm first && sed -i s/5/five/ file && git commit -qam second &&
    git gc -q && git fsck --no-progress && cd .. && git clone -q "file://$PWD/a" b &&
    same "$(git -C b log --oneline | wc -l)" 2
}

case_make() {
    printf 'int f(void){return 6;}\n' > f.c
    printf '#include <stdio.h>\nint f(void);int main(void){printf("%%d\\n",7*f());return 0;}\n' > m.c
    printf 'p: m.o f.o\n\tcc -o $@ $^\n' > Makefile
    make -s -j2 && same "$(./p)" 42
}

case_rust() {
    # Whoever builds the fabric has settings of his own.
    unset "${!CARGO_@}"
    export RUSTC=/usr/bin/rustc
    printf '[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
    mkdir src && printf 'fn main() { println!("{}", (1..=4).map(|n| std::thread::spawn(move || n)).map(|t| t.join().unwrap()).sum::<i32>()) }\n' > src/main.rs
    /usr/bin/cargo run -q --offline 2> error || { tail -3 error; return 1; }
    same "$(/usr/bin/cargo run -q --offline)" 10
}

case_node() {
    cat > s.js <<'JS'
const { Worker } = require('worker_threads'), { execFile } = require('child_process'), http = require('http');
const server = http.createServer((_, answer) => answer.end('served'));
server.listen(0, '127.0.0.1', () => http.get({ port: server.address().port, host: '127.0.0.1' }, answer => {
    answer.on('data', data => console.log(String(data)));
    answer.on('end', () => { server.close();
        execFile('sh', ['-c', 'echo child; exit 3'], (error, out) => { console.log(out.trim(), error.code);
            new Worker('require("worker_threads").parentPort.postMessage("worker")', { eval: true })
                .on('message', console.log); }); });
}));
JS
    same "$(node s.js)" $'served\nchild 3\nworker'
}

case_java() {
    cat > S.java <<'JAVA'
import java.util.stream.*;
public class S {
    public static void main(String[] a) throws Exception {
        Thread t = new Thread(() -> System.out.println(IntStream.range(0, 100000).parallel().sum()));
        t.start(); t.join();
        Process p = new ProcessBuilder("sh", "-c", "exit 5").start();
        System.out.println(p.waitFor());
        try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("null"); }
    }
}
JAVA
    javac S.java && same "$(java -cp . S)" $'704982704\n5\nnull'
}

case_perl() {
    same "$(perl -e '$|=1; pipe R,W; if(!fork){print W "x\n" x 1000; exit 2} close W; @l=<R>; wait; print scalar(@l)," ",$?>>8,"\n"; $SIG{ALRM}=sub{print "alarm\n"}; alarm 1; select undef,undef,undef,5')" $'1000 2\nalarm'
}

case_nginx() {
    local port
    port=$(free_port)
    mkdir logs www && seq 10000 > www/file
    cat > nginx.conf <<CONF
worker_processes 2; pid $PWD/pid; error_log $PWD/logs/error; user root;
events { worker_connections 64; }
http { access_log off; client_body_temp_path $PWD/t1; proxy_temp_path $PWD/t2; fastcgi_temp_path $PWD/t3;
  uwsgi_temp_path $PWD/t4; scgi_temp_path $PWD/t5; sendfile on;
  server { listen 127.0.0.1:$port; root $PWD/www; } }
CONF
    nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/logs/error" && until_it test -s pid &&
    same "$(for _ in 1 2 3 4; do curl -s "http://127.0.0.1:$port/file"; done | sort | uniq -c | grep -c '^ *4 ')" 10000 &&
    kill -HUP "$(cat pid)" && same "$(curl -s "http://127.0.0.1:$port/file" | wc -l)" 10000
    local status=$?
    [ $status = 0 ] || tail -3 logs/error
    kill -QUIT "$(cat pid)"
    return $status
}

case_redis() {
    local port
    port=$(free_port)
    redis-server --port "$port" --bind 127.0.0.1 --daemonize yes --pidfile "$PWD/pid" --dir "$PWD" --logfile "$PWD/log" > /dev/null
    until_it redis-cli -p "$port" ping && redis-cli -p "$port" set k v > /dev/null &&
    same "$(redis-cli -p "$port" get k)" v && redis-benchmark -p "$port" -n 2000 -q -t set,get > bench &&
    redis-cli -p "$port" bgsave > /dev/null && until_it test -s dump.rdb
    local status=$?
    [ $status = 0 ] || tail -3 log
    redis-cli -p "$port" shutdown nosave
    return $status
}

case_postgresql() {
    local port bin
    port=$(free_port)
    bin=$(echo /usr/lib/postgresql/*/bin)
    chmod 711 ../.. .. . && mkdir db && chown postgres db && cd db || return
    setpriv --reuid postgres --regid postgres --clear-groups env PATH="$bin:$PATH" PORT="$port" bash -c '
        initdb -D data -A trust > log 2>&1 &&
        pg_ctl -D data -l server -w -o "-p $PORT -k $PWD -h 127.0.0.1" start >> log &&
        pgbench -h 127.0.0.1 -p "$PORT" -i -q postgres >> log 2>&1 &&
        pgbench -h 127.0.0.1 -p "$PORT" -c 4 -j 2 -t 50 postgres >> log 2>&1 &&
        psql -h "$PWD" -p "$PORT" -Atc "select count(*) from pgbench_history" postgres
        status=$?; [ $status = 0 ] || tail -n 3 log server; pg_ctl -D data -m fast stop >> log; exit $status' > out
    same "$(cat out)" 200
}

case_sqlite3() {
    sqlite3 d 'pragma journal_mode=wal; create table t(a); with recursive c(x) as (select 1 union all select x+1 from c limit 1000) insert into t select x from c;' > out &&
    for _ in 1 2 3 4; do sqlite3 -cmd '.timeout 9000' d 'insert into t values(0)' & done; wait
    same "$(sqlite3 d 'select count(*) from t; pragma integrity_check')" $'1004\nok'
}

case_curl() {
    seq 100 > f && same "$(curl -s "file://$PWD/f" | wc -l)" 100
}

case_tar() {
    mkdir -p d/e && seq 9 > d/e/f && ln -s e d/l && ln d/e/f d/hard && mkfifo d/p && tar czf t.tgz d && mkdir x &&
    tar xzf t.tgz -C x && diff -r --no-dereference d/e x/d/e && same "$(stat -c %h x/d/hard)" 2 && test -p x/d/p
}

case_gdb() {
    printf 'int g(int n){return n+1;}\nint main(void){return g(41);}\n' > g.c && cc -g -O0 -o g g.c &&
    gdb -nx -batch -ex 'set debuginfod enabled off' -ex 'break g' -ex run -ex 'print n' -ex bt -ex finish -ex continue ./g > out 2>&1
    grep -qF '$1 = 41' out && grep -q 'main ()' out && grep -q 'exited with code 052' out || { tail -3 out; return 1; }
}

case_strace() {
    strace -f -o out -e trace=execve,exit_group sh -c '/bin/true; exit 3'
    same $? 3 && same "$(grep -c execve out)" 2 || { tail -3 out; return 1; }
}

case_ps() {
    sleep 77 &
    ps ax -o pid,args | grep -q "^ *$! sleep 77" && same "$(ps -o ppid= -p $! | tr -d ' ')" $BASHPID && pgrep -x sleep > /dev/null
    local status=$?
    kill $!
    return $status
}

case_top() {
    sleep 78 &
    top -b -n 1 -p $! | grep -q "^ *$! .* sleep"
    local status=$?
    kill $!
    return $status
}

for name in ${CASES:-$(compgen -A function case_)}; do
    name=${name#case_}
    printf 'began\t%s\t\n' "$name" >> "$RESULTS"
    mkdir -p "$TMPDIR/$name"
    (cd "$TMPDIR/$name" && HOME=$PWD && "case_$name") > "$TMPDIR/said" 2>&1 && verdict=ok || verdict=failed
    cat "$TMPDIR/said"
    printf '%s\t%s\t%s\n' $verdict "$name" "$(tail -n 3 "$TMPDIR/said" | tr '\n\t' '  ')" >> "$RESULTS"
done
