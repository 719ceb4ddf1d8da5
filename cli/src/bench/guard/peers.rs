//! The tools that are compared.

use crate::guard::library;
use anyhow::Result;
use std::env::consts::ARCH;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use vmalloc_planted::Kind;
use vmalloc_planted::tool::{Tool, Words};

/// The names that the command line has for them.
pub const NAMES: [&str; 7] = ["glibc", "all", "every-1000", "electric-fence", "scudo-all", "scudo-1000", "valgrind"];

/// Allocations that GWP-ASan guards at once: each takes mappings, of which Linux allows 65,530.
const SCUDO_ALL: &str = "GWP_ASAN_SampleRate=1:GWP_ASAN_MaxSimultaneousAllocations=20000";
const SCUDO_SOME: &str = "GWP_ASAN_SampleRate=1000:GWP_ASAN_MaxSimultaneousAllocations=1000";
/// Tells errors by an exit code that no planted program has.
const VALGRIND: [&str; 3] = ["valgrind", "-q", "--error-exitcode=199"];

/// A tool, or why it is absent.
pub struct Peer {
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    pub tool: Result<Tool, String>,
}

/// Those of `names`, or all.
pub fn peers(only: &[String]) -> Result<Vec<Peer>> {
    let wanted = NAMES.into_iter().filter(|name| only.is_empty() || only.iter().any(|one| one == name));
    wanted.map(peer).collect()
}

fn peer(name: &'static str) -> Result<Peer> {
    let (title, tool) = match name {
        "all" => ("vmalloc guard --all", ours(&["--all"])?),
        "every-1000" => ("vmalloc guard --every 1000", ours(&["--every", "1000"])?),
        "electric-fence" => ("electric-fence", electric_fence()),
        "scudo-all" => ("scudo, GWP-ASan of all", scudo(SCUDO_ALL)),
        "scudo-1000" => ("scudo, GWP-ASan 1 in 1000", scudo(SCUDO_SOME)),
        "valgrind" => ("valgrind", valgrind()),
        _ => ("glibc alone", Ok(Tool { words: Some(glibc_words), ..Tool::default() })),
    };
    Ok(Peer { name, title, tool })
}

/// This command itself.
fn ours(how: &[&str]) -> Result<Result<Tool, String>> {
    let mut prefix = vec![std::env::current_exe()?.into_os_string(), "guard".into()];
    prefix.extend(how.iter().chain(&["--"]).map(OsString::from));
    let found = library::find();
    Ok(found.map(|_| Tool { prefix, ..Tool::default() }).map_err(|error| format!("{error:#}")))
}

fn electric_fence() -> Result<Tool, String> {
    let places = ["/usr/lib/libefence.so.0.0".to_owned(), format!("/usr/lib/{ARCH}-linux-gnu/libefence.so.0.0")];
    let library = places.iter().map(PathBuf::from).find(|path| path.is_file());
    let library = library.ok_or_else(|| absent(&places[0], "electric-fence"))?;
    Ok(preloaded(&library, ("EF_DISABLE_BANNER", "1"), fence_words))
}

/// Of the newest compiler that is installed.
fn scudo(how: &str) -> Result<Tool, String> {
    let name = format!("libclang_rt.scudo_standalone-{ARCH}.so");
    let mut found = Vec::new();
    for version in below(Path::new("/usr/lib"), "llvm-") {
        for runtime in below(&version.join("lib/clang"), "") {
            found.push(runtime.join("lib/linux").join(&name));
        }
    }
    found.retain(|path| path.is_file());
    let library = found.pop().ok_or_else(|| absent(&name, "libclang-rt-16-dev"))?;
    Ok(preloaded(&library, ("SCUDO_OPTIONS", how), scudo_words))
}

/// What in `folder` begins with `start`, sorted.
fn below(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start)).map(|of| of.path()).collect();
    paths.sort();
    paths
}

fn valgrind() -> Result<Tool, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(VALGRIND[0]).is_file());
    let prefix = VALGRIND.map(OsString::from).into();
    let tool = Tool { prefix, words: Some(valgrind_words), ..Tool::default() };
    there.then_some(tool).ok_or_else(|| absent("valgrind", "valgrind"))
}

fn preloaded(library: &Path, told: (&str, &str), words: Words) -> Tool {
    let env = vec![("LD_PRELOAD".into(), library.into()), (told.0.into(), told.1.into())];
    Tool { env, words: Some(words), ..Tool::default() }
}

fn absent(what: &str, package: &str) -> String {
    format!("{what} is not installed: apt-get install {package}")
}

fn glibc_words(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::DoubleFree => &["double free"],
        Kind::InvalidFree => &["invalid pointer"],
        _ => &[],
    }
}

/// It names what is wrong with a free; at a fault it leaves the rest to a debugger.
fn fence_words(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::DoubleFree | Kind::InvalidFree => &["address not from malloc()"],
        _ => &[],
    }
}

/// GWP-ASan's, and of what it does not guard scudo's own.
fn scudo_words(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::OverrunWrite | Kind::OverrunRead | Kind::Canary => &["Buffer Overflow", "corrupted chunk header"],
        Kind::Underrun => &["Buffer Underflow", "corrupted chunk header"],
        Kind::UseAfterFree => &["Use After Free"],
        Kind::DoubleFree => &["Double Free", "invalid chunk state"],
        Kind::InvalidFree => &["Invalid (Wild) Free", "misaligned pointer"],
        Kind::None => &[],
    }
}

fn valgrind_words(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::OverrunWrite | Kind::Underrun | Kind::Canary => &["Invalid write"],
        Kind::OverrunRead | Kind::UseAfterFree => &["Invalid read"],
        Kind::DoubleFree | Kind::InvalidFree => &["Invalid free()"],
        Kind::None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_peer_and_every_other_one_is_glibc() {
        let all = peers(&[]).unwrap();
        assert_eq!(all.iter().map(|peer| peer.name).collect::<Vec<_>>(), NAMES);
        assert_eq!(all.iter().filter(|peer| peer.title == "glibc alone").count(), 1);
        assert_eq!(peers(&["valgrind".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn what_is_absent_says_where_it_is_had() {
        for peer in peers(&[]).unwrap() {
            let said = peer.tool.err().unwrap_or_else(|| "apt-get install".to_owned());
            assert!(said.contains("apt-get install") || said.contains("cargo build"), "{said}");
        }
    }
}
