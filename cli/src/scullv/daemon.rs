//! Serving behind the back of the shell, and signals.
//!
//! A daemon is the same command once more, in a session of its own. The first
//! process waits for the line that says that the devices can be used, passes it
//! on and ends; if there is none, it ends as the daemon did.
//!
//! | Signal | What happens |
//! |---|---|
//! | SIGINT, SIGTERM | the devices are unmounted; if somebody uses them, they are taken out of sight, and served until nobody does |
//! | the same again | the process ends at once |
//! | SIGUSR1 | statistics go to stderr, or to the log |

use super::place;
use super::served::Served;
use anyhow::{Context, Result};
use fuser::SessionUnmounter;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// A daemon to be started.
pub struct Daemon(Command);

impl Daemon {
    /// This command, as a daemon.
    pub fn new() -> Result<Daemon> {
        let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
        command.args(std::env::args_os().skip(1)).arg("--daemon").stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Daemon(command))
    }

    /// Starts it, and waits until it serves or has failed; its exit code.
    pub fn start(mut self) -> Result<u8> {
        let mut child = self.0.spawn().context("the daemon cannot be started")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).context("the daemon")?;
        }
        if line.is_empty() {
            let status = child.wait().context("the daemon")?;
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        print!("{line}");
        Ok(0)
    }
}

/// Lets go of the terminal: from here on, messages go to `log`, or nowhere.
pub fn detach(log: Option<&Path>) -> Result<()> {
    let nowhere = || OpenOptions::new().write(true).open("/dev/null").context("/dev/null");
    let messages = match log {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| path.display().to_string())?
        }
        None => nowhere()?,
    };
    rustix::process::setsid().context("a session of its own")?;
    rustix::stdio::dup2_stderr(&messages).context("stderr")?;
    rustix::stdio::dup2_stdout(nowhere()?).context("stdout")?;
    std::env::set_current_dir("/").context("/")
}

/// Does what signals ask for, from now on.
pub fn at_signals(served: &Arc<Served>, mut mounted: SessionUnmounter, place: PathBuf) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).context("signals cannot be waited for")?;
    let served = Arc::downgrade(served);
    let mut ending = false;
    thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => served.upgrade().into_iter().for_each(|served| eprint!("{}", served.statistics())),
                _ if ending => std::process::exit(128 + signal),
                _ => {
                    ending = true;
                    unmount(&mut mounted, &place);
                }
            }
        }
    });
    Ok(())
}

fn unmount(mounted: &mut SessionUnmounter, place: &Path) {
    let Err(why) = mounted.unmount() else { return };
    eprintln!("vmalloc: {}: {why}; served until nobody uses it, the same signal again ends it", place.display());
    if let Err(why) = place::detach(place) {
        eprintln!("vmalloc: {}: {why:#}", place.display());
    }
}
