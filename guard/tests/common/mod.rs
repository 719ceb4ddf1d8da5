//! Children that do something wrong, and what is written when they do.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

/// How a child ended, and what it wrote to stderr.
#[derive(Debug)]
pub struct End {
    /// The signal that it died by.
    pub signal: Option<i32>,
    /// Its exit status, if it had one.
    pub code: Option<i32>,
    /// What it wrote.
    pub text: String,
}

/// Runs `f` in a child, which leaves no core.
pub fn in_child(f: impl FnOnce()) -> End {
    let mut ends = [0; 2];
    // SAFETY: the array has two places; a child of this process alone does nothing that is forbidden.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::dup2(ends[1], 2);
            libc::close(ends[1]);
            libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
            libc::alarm(60);
            f();
            libc::_exit(0);
        }
        libc::close(ends[1]);
        let mut text = String::new();
        File::from_raw_fd(ends[0]).read_to_string(&mut text).expect("text");
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        End { signal, code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)), text }
    }
}
