//! Programs that are correct do under the library what they do without it.

mod common;

use common::*;

/// The same output, the same errors, the same status: with every allocation guarded, and with some.
fn is_unchanged(program: &str, arguments: &[&str]) {
    if !is_there(program) {
        return;
    }
    let without = ran(plain(program).args(arguments));
    for how in ["all", "every=100"] {
        for side in ["end", "start"] {
            let with = ran(guarded(program, &[("VMALLOC_GUARD", how), ("VMALLOC_GUARD_SIDE", side)]).args(arguments));
            let errors = text(&with.stderr);
            assert_eq!(text(&with.stdout), text(&without.stdout), "{program} {how} {side}: {errors}");
            assert_eq!(errors, text(&without.stderr), "{program} {how} {side}");
            assert_eq!(with.status, without.status, "{program} {how} {side}");
        }
    }
}

#[test]
fn ls_lists_what_it_lists() {
    is_unchanged("/bin/ls", &["-laR", env!("CARGO_MANIFEST_DIR")]);
}

#[test]
fn python_runs_threads_children_and_errors() {
    let program = "
import json, os, subprocess, threading
def work(n, out): out[n] = len(json.dumps([{str(i): i * n} for i in range(2000)]))
out = [0] * 6
threads = [threading.Thread(target=work, args=(n, out)) for n in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(out)
for n in range(5):
    pid = os.fork()
    if pid == 0: os._exit(n)
    print(os.waitpid(pid, 0)[1] >> 8)
print(subprocess.run(['echo', 'child'], capture_output=True).stdout)
raise SystemExit(7)
";
    is_unchanged("python3", &["-c", program]);
}

/// A thread for each of 200 requests, of 8 clients at once.
#[test]
fn a_threaded_server_answers_all_its_clients() {
    let program = "
import threading, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Double(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path[1:].encode() * 2
        self.send_response(200); self.send_header('Content-Length', len(body)); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = ThreadingHTTPServer(('127.0.0.1', 0), Double)
threading.Thread(target=server.serve_forever, daemon=True).start()
answers = []
def client(n):
    for i in range(25):
        with urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/{n}-{i}-') as answer:
            answers.append(answer.read())
clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
[c.start() for c in clients]; [c.join() for c in clients]
server.shutdown()
print(sorted(answers))
";
    is_unchanged("python3", &["-c", program]);
}

#[test]
fn sqlite_counts_the_same() {
    let query = "with recursive c(x) as (select 1 union all select x + 1 from c where x < 5000) \
                 select sum(x), count(distinct x % 97), group_concat(hex(x)) from c;";
    is_unchanged("sqlite3", &[":memory:", query]);
}

#[test]
fn git_shows_the_same() {
    is_unchanged("git", &["-C", env!("CARGO_MANIFEST_DIR"), "log", "--stat", "-3"]);
}

#[test]
fn the_compiler_compiles_the_same() {
    is_unchanged("gcc", &["-O1", "-S", "-o", "-", "-x", "c", "/dev/null"]);
}

#[test]
fn a_shell_with_a_pipe_ends_the_same() {
    is_unchanged("sh", &["-c", "seq 2000 | sort -r | tail -n 3; kill -9 $$"]);
}
