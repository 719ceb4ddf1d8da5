//! The library for programs in C, in a folder of the user's.
//!
//! ```text
//!   lib/libvmalloc.a   libvmalloc.so ─▶ libvmalloc.so.0.1 ─▶ libvmalloc.so.0.1.0
//!   lib/pkgconfig/vmalloc.pc   vmalloc-kernel.pc, for the source of kernel modules
//!   include/vmalloc.h   vmalloc/…
//! ```

use crate::project::Project;
use crate::steps::{Outcome, succeed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf, absolute};
use std::process::{Command, ExitCode};
use walkdir::WalkDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SHARED: &str = concat!("libvmalloc.so.", env!("CARGO_PKG_VERSION"));
/// The name that programs look for (`capi/build.rs`).
const SONAME: &str = concat!("libvmalloc.so.", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
/// What the static library wants beside itself.
const PRIVATE: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl";
/// Where the stage installs it, in cargo's folder.
const TRIAL: &str = "trial";

/// Builds and installs, and says what it put where.
pub fn run(project: &Project, prefix: &Path) -> Result<ExitCode> {
    for file in install(project, prefix)? {
        println!("{}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs, and compiles the programs of `capi/README.md` as their user would: with pkg-config, shared
/// and static. They run, and end well.
pub fn stage(project: &Project) -> Result<Outcome> {
    for tool in ["cc", "pkg-config"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Ok(Outcome::Skipped(format!("no {tool}")));
        }
    }
    let prefix = project.built.join(TRIAL);
    install(project, &prefix)?;
    let page = fs::read_to_string(project.root.join("capi/README.md"))?;
    let sources = examples(&page);
    ensure!(sources.len() == 2, "capi/README.md has {} programs, not one for each .pc file", sources.len());
    for (package, source) in ["vmalloc", "vmalloc-kernel"].iter().zip(sources) {
        for linked in [&["--cflags", "--libs"][..], &["--cflags", "--libs", "--static"]] {
            try_out(&prefix, package, &source, linked)?;
        }
    }
    Ok(Outcome::Passed)
}

/// The blocks of C on a page.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("```c\n").skip(1);
    blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned())).collect()
}

fn try_out(prefix: &Path, package: &str, source: &str, linked: &[&str]) -> Result<()> {
    let (file, program) = (prefix.join(format!("{package}.c")), prefix.join(package));
    fs::write(&file, source)?;
    let mut ask = Command::new("pkg-config");
    ask.args(linked).arg(package).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let answer = ask.output()?;
    ensure!(answer.status.success(), "{ask:?}: {}", String::from_utf8_lossy(&answer.stderr));
    let flags = String::from_utf8(answer.stdout)?;
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(&file);
    if linked.contains(&"--static") {
        cc.args(flags.split_whitespace().map(|flag| if flag == "-lvmalloc" { "-l:libvmalloc.a" } else { flag }));
    } else {
        cc.args(flags.split_whitespace());
    }
    succeed(&mut cc)?;
    succeed(Command::new(&program).env("LD_LIBRARY_PATH", prefix.join("lib")))?;
    Ok(())
}

/// Puts everything into place. Returns what it put there.
fn install(project: &Project, prefix: &Path) -> Result<Vec<PathBuf>> {
    let prefix = absolute(prefix)?;
    succeed(project.cargo().args(["build", "--profile", "installed", "-p", "vmalloc-capi"]))?;
    let built = project.built.join("installed");
    let mut to = Place { prefix: &prefix, put: Vec::new() };
    to.copy(&built.join("libvmalloc_capi.a"), "lib/libvmalloc.a")?;
    to.copy(&built.join("libvmalloc_capi.so"), &format!("lib/{SHARED}"))?;
    to.link(SHARED, &format!("lib/{SONAME}"))?;
    to.link(SONAME, "lib/libvmalloc.so")?;
    let headers = project.root.join("capi/include");
    for header in WalkDir::new(&headers).sort_by_file_name() {
        let header = header?;
        if header.file_type().is_file() {
            to.copy(header.path(), &format!("include/{}", header.path().strip_prefix(&headers)?.display()))?;
        }
    }
    to.write("lib/pkgconfig/vmalloc.pc", &description(&prefix, "vmalloc", ""))?;
    let kernel = description(&prefix, "vmalloc-kernel", " -I${includedir}/vmalloc");
    to.write("lib/pkgconfig/vmalloc-kernel.pc", &kernel)?;
    Ok(to.put)
}

/// What pkg-config is told.
fn description(prefix: &Path, name: &str, more: &str) -> String {
    format!(
        "prefix={}\n\
         libdir=${{prefix}}/lib\n\
         includedir=${{prefix}}/include\n\n\
         Name: {name}\n\
         Description: allocators of virtually contiguous memory, on page frames of their own\n\
         Version: {VERSION}\n\
         Cflags: -I${{includedir}}{more}\n\
         Libs: -L${{libdir}} -lvmalloc\n\
         Libs.private: {PRIVATE}\n",
        prefix.display()
    )
}

/// The folder of the user's.
struct Place<'p> {
    prefix: &'p Path,
    put: Vec<PathBuf>,
}

impl Place<'_> {
    /// The path of a file there that is about to be made anew.
    fn make_room(&mut self, path: &str) -> Result<PathBuf> {
        let at = self.prefix.join(path);
        let folder = at.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        // A link would be followed, and a program that runs keeps the file that it has.
        let _absent_is_fine = fs::remove_file(&at);
        self.put.push(at.clone());
        Ok(at)
    }

    fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let at = self.make_room(path)?;
        fs::copy(from, &at).with_context(|| format!("{} to {}", from.display(), at.display()))?;
        Ok(())
    }

    fn link(&mut self, target: &str, path: &str) -> Result<()> {
        let at = self.make_room(path)?;
        symlink(target, &at).with_context(|| format!("{}", at.display()))
    }

    fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let at = self.make_room(path)?;
        fs::write(&at, text).with_context(|| format!("{}", at.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_a_page_are_its_blocks_of_c() {
        let page = "# T\n```c\nint a;\n```\n```sh\nls\n```\n```c\nint b;\n```\n";
        assert_eq!(examples(page), ["int a;\n", "int b;\n"]);
    }

    #[test]
    fn a_link_that_was_there_is_replaced_and_not_written_through() {
        let folder = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        let mut to = Place { prefix: &folder, put: Vec::new() };
        to.write("lib/a", "old").unwrap();
        to.link("a", "lib/b").unwrap();
        to.write("lib/b", "new").unwrap();
        let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap();
        assert_eq!((read("lib/a"), read("lib/b")), ("old".into(), "new".into()));
        assert_eq!(to.put.len(), 3);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_installed_unwinds_so_that_a_panic_becomes_an_error() {
        let profiles = include_str!("../../Cargo.toml");
        let (_, installed) = profiles.split_once("[profile.installed]\n").unwrap();
        let (installed, _) = installed.split_once("\n[").unwrap();
        assert!(installed.contains("\npanic = \"unwind\"\n"), "{installed}");
    }

    #[test]
    fn pkg_config_is_told_the_prefix_and_where_modules_find_their_headers() {
        let text = description(Path::new("/opt/v"), "vmalloc-kernel", " -I${includedir}/vmalloc");
        assert!(text.starts_with("prefix=/opt/v\nlibdir=${prefix}/lib\n"), "{text}");
        assert!(text.contains("\nCflags: -I${includedir} -I${includedir}/vmalloc\n"), "{text}");
    }
}
