//! QEMU as a child process.
//!
//! Whoever starts it ends it: dropping a [`Process`] ends it, and so does the
//! death of the thread that started it, however that died.

use super::flags::flags;
use super::tools::Tools;
use super::{Guest, QemuError};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// What the image writes to its exit device is v: QEMU ends with 2v + 1.
const PASSED: i32 = 33;
const FAILED: i32 = 35;
const PANICKED: i32 = 37;
/// For ever, as far as anybody waits.
const LONG: Duration = Duration::from_secs(1 << 30);
/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// A running guest.
pub struct Process {
    child: Child,
    news: Receiver<News>,
    /// Kept until the guest has read it.
    _module: Option<NamedTempFile>,
}

/// What there is to know of a running guest.
#[derive(Debug)]
pub enum News {
    /// Bytes came from its serial line.
    Bytes(Vec<u8>),
    /// QEMU itself says something.
    Complaint(String),
    /// It has ended.
    Ended(Code),
    /// It has not ended in time.
    Late,
}

/// How QEMU ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub ExitStatus);

impl Code {
    /// Whether the guest passed; `last` are its last lines.
    ///
    /// # Errors
    /// It did not end by itself.
    pub fn judged(self, last: String) -> Result<bool, QemuError> {
        match self.0.code() {
            Some(PASSED) => Ok(true),
            Some(FAILED) => Ok(false),
            Some(PANICKED) => Err(QemuError::Panicked { last }),
            _ => Err(QemuError::Crashed { status: self.0, last }),
        }
    }
}

impl Process {
    /// Starts `guest`.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start(guest: &Guest, tools: &Tools) -> Result<Process, QemuError> {
        let module = guest.module.as_deref().map(written).transpose().map_err(QemuError::NoModule)?;
        let mut command = Command::new(&tools.program);
        command.args(flags(guest, &tools.image, module.as_ref().map(NamedTempFile::path)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec, one system call that allocates nothing.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let not_started = |cause| QemuError::NotStarted { program: tools.program.clone(), cause };
        let mut child = command.spawn().map_err(not_started)?;
        let (tell, news) = channel();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            let complain = tell.clone();
            thread::spawn(move || tell_bytes(stdout, &tell));
            thread::spawn(move || tell_complaints(stderr, &complain));
        }
        Ok(Process { child, news, _module: module })
    }

    /// The guest's serial line, for one taker. Dropped: nobody types.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What ends it from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper { pid: Pid::from_child(&self.child), used: Arc::default() }
    }

    /// What there is to know next; waits for it.
    ///
    /// # Errors
    /// The system does not say how QEMU ended.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<News, QemuError> {
        let wait = deadline.map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
        match self.news.recv_timeout(wait) {
            Ok(news) => Ok(news),
            Err(RecvTimeoutError::Timeout) => Ok(News::Late),
            // Both of its outputs are closed, so it is over in a moment.
            Err(RecvTimeoutError::Disconnected) => {
                self.child.wait().map(|status| News::Ended(Code(status))).map_err(QemuError::Deaf)
            }
        }
    }

    /// Hands each line to `on_line` until QEMU has ended, and tells how it did;
    /// `None` if it has not by `deadline`.
    ///
    /// # Errors
    /// As for [`Process::next`].
    pub fn listen(
        &mut self,
        deadline: Option<Instant>,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Option<Code>, QemuError> {
        let mut line = Vec::new();
        let ended = loop {
            match self.next(deadline)? {
                News::Bytes(bytes) => bytes.into_iter().for_each(|byte| collect(&mut line, byte, on_line)),
                News::Complaint(text) => on_line(&text),
                News::Ended(code) => break Some(code),
                News::Late => break None,
            }
        };
        if !line.is_empty() {
            collect(&mut line, b'\n', on_line);
        }
        Ok(ended)
    }
}

/// Ends a guest at once, from any thread, while its [`Process`] lives.
#[derive(Clone, Debug)]
pub struct Stopper {
    pid: Pid,
    used: Arc<AtomicBool>,
}

impl Stopper {
    /// Ends it.
    pub fn stop(&self) {
        self.used.store(true, Relaxed);
        // It may have ended already.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Whether it was this that has ended it.
    pub fn used(&self) -> bool {
        self.used.load(Relaxed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever has ended already cannot be killed, and that is all right.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn written(module: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(module)?;
    Ok(file)
}

fn tell_bytes(mut from: impl Read, tell: &Sender<News>) {
    let mut buffer = [0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if tell.send(News::Bytes(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn tell_complaints(from: impl Read, tell: &Sender<News>) {
    let lines = BufReader::new(from).lines().map_while(Result::ok);
    // Whoever does not listen any more needs no complaints.
    let _ = lines.map(|line| tell.send(News::Complaint(line))).find(Result::is_err);
}

/// Adds `byte` to `line`, and hands the line on when it is whole.
fn collect(line: &mut Vec<u8>, byte: u8, on_line: &mut dyn FnMut(&str)) {
    if byte != b'\n' {
        return line.push(byte);
    }
    on_line(String::from_utf8_lossy(line).trim_end_matches('\r'));
    line.clear();
}
