//! Programs in C, compiled against the headers and linked with the library that cargo has built.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The folder of this crate.
const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// What the static library wants beside itself.
const NATIVE: [&str; 6] = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// Which of the libraries a program is linked with.
#[derive(Clone, Copy, PartialEq)]
enum Linked {
    Shared,
    Static,
}

/// Where cargo puts the libraries: beside the tests.
fn built() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

/// Compiles `source` with these flags of its own, as C of any compiler of its day.
fn compile(source: &Path, flags: &[&str], linked: Linked, into: &Path) {
    let (include, built) = (Path::new(HERE).join("include"), built());
    let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-rdynamic", "-o"]).arg(into);
    cc.arg("-I").arg(include).args(flags).arg(source);
    match linked {
        Linked::Shared => cc.arg("-L").arg(&built).arg("-lvmalloc_capi").arg("-pthread"),
        Linked::Static => cc.arg(built.join("libvmalloc_capi.a")).args(NATIVE),
    };
    run(&mut cc);
}

/// Compiles a program of `tests/c`, and runs it with `args`. Returns what it printed.
fn runs(name: &str, flags: &[&str], linked: Linked, args: &[&OsStr]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (program, soname) = (folder.path().join(name), folder.path().join("libvmalloc.so.0.1"));
    compile(&Path::new(HERE).join(format!("tests/c/{name}.c")), flags, linked, &program);
    // The library's own name, which the program looks for.
    std::os::unix::fs::symlink(built().join("libvmalloc_capi.so"), soname).unwrap();
    let output = run(Command::new(&program).args(args).env("LD_LIBRARY_PATH", folder.path()));
    String::from_utf8(output.stdout).unwrap()
}

const C11: [&str; 2] = ["-std=c11", "-pedantic"];

#[test]
fn a_program_has_instances_areas_mappings_questions_and_errors() {
    assert!(runs("plain", &C11, Linked::Shared, &[]).ends_with("serves_no_more\n"));
}

#[test]
fn the_static_library_serves_a_program_alone() {
    assert!(runs("plain", &C11, Linked::Static, &[]).ends_with("serves_no_more\n"));
}
