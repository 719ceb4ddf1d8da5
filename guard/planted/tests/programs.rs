//! The programs without a tool, and under one that is told what to find.

use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vmalloc_planted::tally::is_good;
use vmalloc_planted::tool::{Outcome, Tool, Verdict};
use vmalloc_planted::{Kind, Program, SIZES, Way, cases, compile};

/// A tool that knows the bug from the command line, and treats its report as it is told to.
const ORACLE: &str = r#"
case $2 in
    none) exec "$@" ;;
    overrun-*) kind=overrun ;;
    *) kind=$2 ;;
esac
report=$(dirname "$VMALLOC_GUARD_REPORT")/$$.json
[ "$SILENT" ] || echo "{\"kind\":\"${SAYS:-$kind}\"}" > "$report"
[ "$LIVES" ] || kill -SEGV $$
"#;

/// Both programs, and a folder for what they do.
fn programs() -> (TempDir, Vec<Program>) {
    let folder = tempfile::tempdir().unwrap();
    let c = folder.path().join("planted");
    compile(None, &c).unwrap();
    let rust = PathBuf::from(env!("CARGO_BIN_EXE_planted"));
    (folder, vec![Program { language: "C", path: c }, Program { language: "Rust", path: rust }])
}

fn oracle(env: &[(&str, &str)]) -> Tool {
    let prefix = ["sh", "-c", ORACLE, "sh"].map(Into::into).into();
    Tool { prefix, env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(), words: None }
}

fn outcomes(tool: &Tool, programs: &[Program], folder: &Path, sizes: &[usize]) -> Vec<Outcome> {
    let all =
        programs.iter().flat_map(|program| cases(program.language, sizes).into_iter().map(move |case| (program, case)));
    all.map(|(program, case)| tool.run(program, case, folder).unwrap()).collect()
}

#[test]
fn correct_programs_end_well_and_no_bug_is_found_without_a_tool() {
    let (folder, programs) = programs();
    let outcomes = outcomes(&Tool::default(), &programs, folder.path(), &SIZES);
    assert_eq!(outcomes.len(), 2 * SIZES.len() * Kind::ALL.len() * Way::ALL.len());
    for outcome in outcomes {
        assert_eq!(is_good(&outcome), outcome.case.kind == Kind::None, "{outcome:?}");
    }
}

#[test]
fn what_a_tool_finds_is_counted_and_taken_away() {
    let (folder, programs) = programs();
    let outcomes = outcomes(&oracle(&[]), &programs, folder.path(), &[100]);
    assert!(outcomes.iter().all(is_good), "{outcomes:?}");
    let left = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(left.filter(|path| path.extension().is_some_and(|of| of == "json")).count(), 0);
}

#[test]
fn a_tool_that_is_silent_or_wrong_or_goes_on_has_found_nothing() {
    let (folder, programs) = programs();
    for (name, verdict) in [("SILENT", Verdict::Unnamed), ("SAYS", Verdict::Unnamed), ("LIVES", Verdict::Missed)] {
        let outcomes = outcomes(&oracle(&[(name, "underun")]), &programs[..1], folder.path(), &[1]);
        let bugs = outcomes.iter().filter(|outcome| outcome.case.kind != Kind::None);
        assert!(bugs.clone().count() > 0 && bugs.clone().all(|of| of.verdict == verdict), "{name}: {outcomes:?}");
    }
}

#[test]
fn a_command_line_that_means_nothing_is_refused() {
    let (_folder, programs) = programs();
    for program in programs {
        for args in [&["none"][..], &["none", "0", "plain"], &["nonsense", "1", "plain"]] {
            let status =
                std::process::Command::new(&program.path).args(args).stderr(std::process::Stdio::null()).status();
            assert_eq!(status.unwrap().code(), Some(2), "{args:?}");
        }
    }
}
