//! Making the program that is written in C.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The program, so that those who run it need no source beside them.
const PLANTED: &str = include_str!("../planted.c");
/// The compiler must leave bugs as they are: it may know what malloc and free do.
const FLAGS: [&str; 5] = ["-O1", "-g", "-fno-builtin", "-pthread", "-w"];

/// Compiles `source`, or the planted program, to the file at `to`, by the system's C compiler.
pub fn compile(source: Option<&str>, to: &Path) -> Result<()> {
    let file = to.with_extension("c");
    std::fs::write(&file, source.unwrap_or(PLANTED)).with_context(|| file.display().to_string())?;
    let command = Command::new("cc").args(FLAGS).arg(&file).arg("-o").arg(to).output();
    let output = command.context("cc cannot be run; apt-get install gcc libc6-dev")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cc: {}: {}\n{said}", file.display(), output.status);
    Ok(())
}
