//! Where the library is that guards.

use super::elf::{Elf, Head};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Names the library, wherever it is.
pub const VARIABLE: &str = "VMALLOC_GUARD_LIB";
const NAME: &str = "libvmalloc_guard.so";
/// What makes it.
const BUILD: &str = "cargo build --release -p vmalloc-guard-preload";

/// The library, and for which machine it is made.
pub struct Library {
    /// In full.
    pub path: PathBuf,
    pub elf: Elf,
}

/// Looks for the library.
pub fn find() -> Result<Library> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return open(Path::new(&named)).with_context(|| format!("{VARIABLE} names what cannot be preloaded"));
    }
    let own = std::env::current_exe().context("the folder of this command")?;
    let places = places(&own);
    match places.iter().find(|path| path.is_file()) {
        Some(path) => open(path),
        None => bail!(missing(&places)),
    }
}

/// Beside the command at `own`, and in the lib of its PREFIX.
fn places(own: &Path) -> Vec<PathBuf> {
    let folders = own.parent().into_iter().flat_map(|folder| {
        let lib = folder.parent().map(|prefix| prefix.join("lib"));
        [Some(folder.to_owned()), lib]
    });
    folders.flatten().map(|folder| folder.join(NAME)).collect()
}

fn missing(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    format!("{NAME} is not there: neither {}; build it by `{BUILD}`, or name it in {VARIABLE}", places.join(" nor "))
}

fn open(path: &Path) -> Result<Library> {
    let path = std::path::absolute(path)?;
    let head = Head::read(&path).with_context(|| path.display().to_string())?;
    let Head::Elf(elf) = head else { bail!("{}: no ELF file", path.display()) };
    ensure!(elf.shared, "{}: no shared library", path.display());
    Ok(Library { path, elf })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_the_command_and_in_the_lib_of_its_prefix() {
        let expected = ["/usr/local/bin/libvmalloc_guard.so", "/usr/local/lib/libvmalloc_guard.so"];
        assert_eq!(places(Path::new("/usr/local/bin/vmalloc")), expected.map(PathBuf::from));
        let said = missing(&places(Path::new("/usr/local/bin/vmalloc")));
        assert!(expected.iter().all(|path| said.contains(path)) && said.contains(BUILD), "{said}");
    }

    #[test]
    fn what_is_no_shared_library_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(open(file.path()).err().unwrap().to_string().ends_with("no ELF file"));
        assert!(open(Path::new("/nowhere.so")).err().unwrap().to_string().contains("/nowhere.so"));
    }
}
