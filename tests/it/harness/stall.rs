//! A worker that is stuck: its thread alone stands still, as in an endless loop, while the others go on.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::Server;

/// Stands still until it is dropped.
pub struct Stall(Child);

/// A debugger that stops one thread, until its input ends.
const DEBUGGER: &str = "
import ctypes, os, select, sys
SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000
tid, ptrace = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
def do(request):
    if ptrace(request, tid, 0, 0) == -1:
        sys.exit(os.strerror(ctypes.get_errno()))
do(SEIZE)
do(INTERRUPT)
os.waitpid(tid, WALL)
print('it stands still', flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    # Where the process ends meanwhile, so does the thread; it waits for us to know it.
    if os.waitpid(tid, WALL | os.WNOHANG)[0]:
        sys.exit()
do(DETACH)
";

impl Stall {
    /// The worker of that number stands still.
    pub fn of(server: &Server, worker: usize) -> Stall {
        let tid = server.worker_thread(worker).to_string();
        let mut command = Command::new("python3");
        command.args(["-c", DEBUGGER, &tid]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut debugger = command.spawn().expect("there is a Python");
        let mut reported = String::new();
        BufReader::new(debugger.stdout.as_mut().expect("piped")).read_line(&mut reported).expect("a pipe");
        assert_eq!(reported, "it stands still\n");
        Stall(debugger)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
