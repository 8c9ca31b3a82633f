# A session with a shell: pipes, jobs, traps, shared offsets, substitutions. Prints the same in each run.
set -m
count=0
trap 'count=$((count + 1))' USR2
for i in {1..30}; do kill -USR2 $$; done
echo "traps: $count"

seq 3000 | while read -r x; do echo $((x * 7919 % 3001)); done | sort -n | sha256sum
{ for i in 1 2 3 4 5 6 7 8; do echo "line $i"; sleep 0.04; done; } | while read -r line; do echo "got $line"; done
yes moving | head -20000 | wc -l
for i in 1 2 3; do head -c 200000 /dev/zero | tr '\0' "$i" | cat | wc -c; done

(sleep 0.4; echo late) & (sleep 0.1; echo early) & wait
sleep 60 & job=$!
# Until the shell has heard of the stop, and of the rest, it would tell of what it heard last.
kill -STOP $job; until [[ $(jobs) == *Stopped* ]]; do sleep 0.02; done
kill -CONT $job; until [[ $(jobs) == *Running* ]]; do sleep 0.02; done
kill $job; wait -f $job; echo "job: $?"
sh -c 'sleep 0.3; exit 7' & wait $!; echo "child: $?"
sh -c 'trap "echo caught; exit 9" TERM; echo ready > ready; while :; do sleep 0.02; done' & job=$!
while ! test -s ready; do sleep 0.02; done
kill $job; wait $job; echo "trapped: $?"

coproc cat
echo through >&"${COPROC[1]}"; read -r answer <&"${COPROC[0]}"; echo "coproc: $answer"
kill $COPROC_PID; wait $COPROC_PID 2>/dev/null

seq 9 > numbers
{ read -r a; read -r b; sleep 0.1; echo "$a $b"; head -1 > /dev/null; } < numbers
(for w in a b c; do for i in {1..40}; do echo "$w $i"; done & done; wait) > log
sort log | sha256sum; wc -l < log
exec 7<> kept; echo kept >&7; rm kept; sleep 0.1; echo more >&7; exec 7>&-
cat <<< "here $(for i in 1 2 3; do sleep 0.05; echo $i; done | tr '\n' ' ')"
test "$(sh -c 'echo $PPID')" = $$ && echo "parent: same"
total=0; for i in {1..60000}; do total=$(((total * 31 + i) % 1000003)); done; echo "total: $total"
printf '%s\n' *| sort
mkfifo queue 2>/dev/null && rm queue
trap 'echo leaving' EXIT
( ulimit -n 64; sleep 0.2; ulimit -n )
exit 5
