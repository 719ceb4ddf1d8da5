//! Why there is no guest, or no good end of one.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use thiserror::Error;

/// What Debian and Ubuntu call the package with the program.
pub const PACKAGE: &str = "qemu-system-x86";

/// Why a guest has not ended by itself.
#[derive(Debug, Error)]
pub enum QemuError {
    #[error("{0}: no source here to build the image from; give one that was built with --image FILE")]
    NoSource(PathBuf),
    #[error("{0}: no such image")]
    NoImage(PathBuf),
    #[error("cargo cannot be run to build the image: {0}")]
    NoCargo(io::Error),
    #[error("the image does not build: {}", if .0.is_empty() { "cargo has said why" } else { .0 })]
    NotBuilt(String),
    #[error(
        "no qemu-system-x86_64 in PATH: install the package {PACKAGE} \
         (apt-get install --no-install-recommends {PACKAGE}), or let --install do it"
    )]
    NoProgram,
    #[error("{PACKAGE} cannot be installed: {0}")]
    NotInstalled(String),
    #[error("{}: cannot be started: {cause}", program.display())]
    NotStarted { program: PathBuf, cause: io::Error },
    #[error("the guest's file cannot be written: {0}")]
    NoModule(io::Error),
    #[error("QEMU cannot be listened to: {0}")]
    Deaf(io::Error),
    #[error("the guest did not end within {} s{last}", limit.as_secs_f64())]
    TimeLimit { limit: Duration, last: String },
    #[error("the guest panicked{last}")]
    Panicked { last: String },
    #[error("the guest crashed: QEMU ended with {status}, which is no code of the image{last}")]
    Crashed { status: ExitStatus, last: String },
}
