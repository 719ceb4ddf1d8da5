//! Programs in C, compiled against the headers and linked with the library that cargo has built.

use std::env;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use vmalloc_kernel::{GfpFlags, VmFlags};

/// The folder of this crate.
const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// What the static library wants beside itself.
const NATIVE: [&str; 6] = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// Which of the libraries a program is linked with.
enum Linked {
    Shared,
    Static,
}

/// Where cargo puts the libraries: beside the tests.
fn built() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// What a program said, on both outputs, and whether it ended well.
fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&both).into_owned())
}

#[track_caller]
fn well(command: &mut Command) -> String {
    let (is_well, text) = said(command);
    assert!(is_well, "{command:?}\n{text}");
    text
}

/// A program of `tests/c`, and the folder that it is in while it runs.
struct Program {
    folder: TempDir,
}

impl Program {
    /// Compiles it with these flags of its own.
    fn compiled(name: &str, flags: &[&str], linked: Linked) -> Program {
        let folder = tempfile::tempdir().unwrap();
        let (here, built) = (Path::new(HERE), built());
        let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-rdynamic", "-o"]).arg(folder.path().join("program"));
        // What forces a panic is there with debug assertions alone.
        cc.args(cfg!(debug_assertions).then_some("-DDEBUG_ASSERTIONS"));
        cc.arg("-I").arg(here.join("include")).args(flags).arg(here.join(format!("tests/c/{name}.c")));
        match linked {
            Linked::Shared => cc.arg("-L").arg(&built).args(["-lvmalloc_capi", "-pthread"]),
            Linked::Static => cc.arg(built.join("libvmalloc_capi.a")).args(NATIVE),
        };
        well(&mut cc);
        // By this name the program looks for the shared library.
        symlink(built.join("libvmalloc_capi.so"), folder.path().join("libvmalloc.so.0.1")).unwrap();
        Program { folder }
    }

    /// The command that runs it.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("program"));
        command.args(args).env("LD_LIBRARY_PATH", self.folder.path());
        command
    }
}

const C11: [&str; 2] = ["-std=c11", "-pedantic"];

#[test]
fn a_program_has_instances_areas_mappings_questions_and_errors() {
    well(&mut Program::compiled("plain", &C11, Linked::Shared).command(&[]));
}

#[test]
fn a_log_that_cannot_be_written_fails_nobody() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    well(Program::compiled("plain", &C11, Linked::Shared).command(&[]).stderr(full));
}

#[test]
fn the_static_library_serves_a_program_alone() {
    well(&mut Program::compiled("plain", &C11, Linked::Static).command(&[]));
}

/// What the source of a module is compiled with.
const MODULE: [&str; 3] = ["-std=gnu11", "-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include/vmalloc")];

#[test]
fn the_flags_of_kernel_h_are_those_of_the_subsystem() {
    let mut told = String::new();
    let composed =
        [("__GFP_RECLAIM", GfpFlags::RECLAIM), ("GFP_KERNEL", GfpFlags::KERNEL), ("GFP_NOFS", GfpFlags::NOFS)];
    let more = [("GFP_NOIO", GfpFlags::NOIO), ("GFP_ATOMIC", GfpFlags::ATOMIC), ("GFP_NOWAIT", GfpFlags::NOWAIT)];
    for (name, flag) in GfpFlags::all().iter_names() {
        told += &format!("__GFP_{name} {:#x}\n", flag.bits());
    }
    for (name, flags) in composed.into_iter().chain(more) {
        told += &format!("{name} {:#x}\n", flags.bits());
    }
    let areas = VmFlags::ALLOC | VmFlags::MAP | VmFlags::USERMAP | VmFlags::MAP_PUT_PAGES | VmFlags::ALLOW_HUGE_VMAP;
    for (name, flag) in areas.iter_names() {
        told += &format!("VM_{name} {:#x}\n", flag.bits());
    }
    assert_eq!(well(&mut Program::compiled("gfp", &MODULE, Linked::Shared).command(&[])), told);
}

#[test]
fn each_name_of_kernel_h_does_what_it_says() {
    well(&mut Program::compiled("names", &MODULE, Linked::Shared).command(&[]));
}

#[test]
fn the_source_of_a_module_runs_as_a_program() {
    let module = Program::compiled("module", &MODULE, Linked::Shared);
    let said = well(&mut module.command(&["loops=50", "threads=3"]));
    assert_eq!(said.matches(": passed 3, failed 0\n").count(), 10, "{said}");
    assert!(said.ends_with("the module has ended\n"), "{said}");
}

#[test]
fn a_module_that_leaves_an_area_or_is_asked_for_what_it_has_not_ends_with_an_error() {
    let module = Program::compiled("module", &MODULE, Linked::Static);
    let (is_well, text) = said(&mut module.command(&["loops=1", "only=aligned", "leak=1"]));
    assert!(!is_well && text.ends_with("module: areas and objects by CPU that are left: 1\n"), "{text}");
    for wrong in ["loop=1", "loops", "loops=", "loops=1x", "leak=x"] {
        let refused = format!("module: no parameter, or not its type: {wrong}\n");
        assert_eq!(said(&mut module.command(&[wrong])), (false, refused));
    }
}
