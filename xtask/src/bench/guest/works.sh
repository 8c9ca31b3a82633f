# Work for `cargo xtask bench`: each function once natively and once in a fabric, by turns. `prepare_NAME` runs once, natively.
# $FOLDER is the bench's own, $PORT is free. Servers are waited for, so that what they used is counted.
set -eu
cd "$FOLDER"

until_it() {
    for _ in {1..200}; do
        "$@" > /dev/null 2>&1 && return
        sleep 0.05
    done
    echo "never held: $*" >&2
    return 1
}

work_nothing() { :; }

work_python() { for _ in {1..20}; do /usr/bin/python3 -c pass; done; }

prepare_gcc() {
    for i in {1..1250}; do
        printf 'int f%d(int *a, int n) {\n int s = 0; for (int i = 0; i < n; i++)\n s += a[i] * %d + s / (i + %d);\n return s; }\n' "$i" "$i" "$i"
    done > big.c
}
work_gcc() { gcc -O2 -c -o /dev/null big.c; }

work_find() { find /usr/include /usr/lib /usr/share | wc -l > /dev/null; }

work_tar() { tar cPf - /usr/include /usr/share/perl | wc -c > /dev/null; }

work_builtins() {
    for _ in {1..20000}; do
        [ -e /etc/passwd ] && read -r line < /etc/hostname
    done
}

prepare_git() {
    mkdir large
    (cd large && PATH=/usr/bin:$PATH && git init -q && for i in {1..200}; do mkdir "d$i" && (cd "d$i" && for j in {1..100}; do echo "$i $j" > "f$j"; done); done &&
        git add . && git -c user.name=bench -c user.email=bench@localhost commit -qm all)
}
work_git() { for _ in {1..5}; do /usr/bin/git -c safe.directory='*' -C large status > /dev/null; done; }

with_redis() {
    redis-server --port "$PORT" --bind 127.0.0.1 --save '' --appendonly no > /dev/null &
    local server=$!
    until_it redis-cli -p "$PORT" ping
    redis-benchmark -p "$PORT" -q -t set,get "$@" > /dev/null
    redis-cli -p "$PORT" shutdown nosave
    wait "$server"
}
work_redis() { with_redis -n 30000; }
work_redis_pipelined() { with_redis -n 400000 -P 16; }

# The server runs as no root; a list, not a function, so that it is the shell's own child.
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
postgres=(setpriv --reuid postgres --regid postgres --clear-groups)

prepare_pgbench() {
    mkdir db
    chown postgres db
    "${postgres[@]}" initdb -D db/data -A trust > /dev/null
    "${postgres[@]}" pg_ctl -D db/data -l db/log -w -o "-p $PORT -k $FOLDER/db -h 127.0.0.1" start > /dev/null
    "${postgres[@]}" pgbench -h 127.0.0.1 -p "$PORT" -i -q postgres 2> /dev/null
    "${postgres[@]}" pg_ctl -D db/data -m fast stop > /dev/null
}
work_pgbench() {
    "${postgres[@]}" postgres -D db/data -p "$PORT" -k "$FOLDER/db" -h 127.0.0.1 > /dev/null 2>&1 &
    local server=$!
    until_it "${postgres[@]}" pg_isready -h 127.0.0.1 -p "$PORT"
    "${postgres[@]}" pgbench -h 127.0.0.1 -p "$PORT" -n -S -c 2 -t 8000 postgres > /dev/null 2>&1
    kill -INT "$server"
    wait "$server"
}

prepare_wrk() {
    mkdir www
    seq 1000 > www/file
    cat > nginx.conf <<CONF
daemon off; worker_processes 1; pid $FOLDER/nginx.pid; error_log $FOLDER/nginx.log; user root;
events { worker_connections 128; }
http { access_log off; client_body_temp_path $FOLDER/t1; proxy_temp_path $FOLDER/t2; fastcgi_temp_path $FOLDER/t3;
  uwsgi_temp_path $FOLDER/t4; scgi_temp_path $FOLDER/t5; sendfile on; keepalive_requests 1000000;
  server { listen 127.0.0.1:$PORT; root $FOLDER/www; } }
CONF
}
# Two seconds of requests; the CPU time is told of each that was answered.
work_wrk() {
    nginx -p "$FOLDER" -c "$FOLDER/nginx.conf" -e "$FOLDER/nginx.log" &
    local server=$!
    until_it curl -sf "http://127.0.0.1:$PORT/file"
    wrk -t1 -c8 -d2s "http://127.0.0.1:$PORT/file" | sed -n 's/^ *\([0-9]*\) requests in .*/done \1/p'
    kill -QUIT "$server"
    wait "$server"
}

work_bash_exec() { for _ in {1..1000}; do /bin/true; done; }
work_spawn() { ./births spawn 1000; }
work_fork() { ./births fork 1000; }

"$1"
