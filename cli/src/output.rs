//! Files that are written when everything is done. Whether they can be is found out before.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, remove_file};
use std::io::ErrorKind;
use std::path::Path;

/// The name of stdout among files.
const STDOUT: &str = "-";

/// Whether `path` names stdout.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == STDOUT
}

/// Whether the file at `path` can be written. It is as it was.
///
/// # Errors
/// Why not.
pub fn probe(path: &Path) -> Result<()> {
    if is_stdout(path) {
        return Ok(());
    }
    let tried = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => OpenOptions::new().write(true).open(path).map(drop),
        Err(error) => Err(error),
    };
    tried.with_context(|| unwritten(path))
}

/// Writes `text` to the file at `path`, or to stdout.
///
/// # Errors
/// Why it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if is_stdout(path) {
        return crate::print_raw(text);
    }
    std::fs::write(path, text).with_context(|| unwritten(path))
}

/// Begins the file at `path`, which is written as things happen.
///
/// # Errors
/// Why it cannot be written.
pub fn begin(path: &Path) -> Result<File> {
    let path = if is_stdout(path) { Path::new("/dev/stdout") } else { path };
    File::create(path).with_context(|| unwritten(path))
}

/// What an error says of the file at `path`.
pub fn unwritten(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_ask_whether_a_file_can_be_written_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::write(&old, "what it says").unwrap();
        assert!(probe(&new).is_ok() && probe(&old).is_ok() && probe(Path::new(STDOUT)).is_ok());
        assert!(!new.exists());
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "what it says");
        for bad in [folder.path().to_owned(), folder.path().join("no/such/folder")] {
            let error = probe(&bad).unwrap_err().to_string();
            assert_eq!(error, format!("{}: cannot be written", bad.display()));
        }
    }
}
