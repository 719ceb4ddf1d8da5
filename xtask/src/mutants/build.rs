//! The copy of the project that has the changes in it, built.
//!
//! Some changes do not compile: the types do not fit, or something is moved
//! twice. Those that the compiler complains about are left out, and the copy is
//! built again until it has no complaint.

use super::catalogue::Mutant;
use super::schemata::{CHOICE, Schemata};
use super::suites::Target;
use crate::tidy::tree::Tree;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use walkdir::WalkDir;

const ROOT: &str = "vmalloc/src/lib.rs";
const MODULE: &str = "vmalloc/src/mutant.rs";

const DROPPED: &str = "dropped.txt";

/// It is built once, and run hundreds of times.
const FAST: [&str; 4] = ["--config", "profile.dev.opt-level=2", "--config", "profile.dev.package.\"*\".opt-level=1"];

/// What cargo built of a target.
#[derive(Clone, Debug)]
pub struct Executable {
    /// The program.
    pub path: PathBuf,
    /// Where cargo would run it.
    pub folder: PathBuf,
}

/// The copy.
pub struct Copy<'a> {
    /// Where it lies; what is built lies beside it.
    pub folder: &'a Path,
    /// What is copied.
    pub tree: &'a Tree,
    /// What is changed.
    pub mutants: &'a [Mutant],
    /// What is not, because it does not compile.
    pub dropped: BTreeSet<usize>,
}

impl Copy<'_> {
    /// Writes those that `choose` wants, of those that may compile, and builds until
    /// everything does.
    pub fn build(
        &mut self,
        targets: &BTreeSet<Target>,
        choose: impl Fn(&BTreeSet<usize>) -> Result<Vec<usize>>,
    ) -> Result<BTreeMap<Target, Executable>> {
        'again: loop {
            let written = self.write(&choose(&self.dropped)?)?;
            let mut executables = BTreeMap::new();
            for &target in targets {
                let messages = self.cargo(target)?;
                match executable(&messages, target) {
                    Some(executable) => drop(executables.insert(target, executable)),
                    None => {
                        self.drop_blamed(&messages, &written)?;
                        continue 'again;
                    }
                }
            }
            return Ok(executables);
        }
    }

    /// Writes all files, touching only those that differ, so that cargo builds
    /// no more than it has to.
    fn write(&self, chosen: &[usize]) -> Result<BTreeMap<String, Schemata>> {
        let mut texts: BTreeMap<String, String> =
            self.tree.texts.iter().map(|file| (file.path.clone(), file.text.clone())).collect();
        let mut schemata: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for &number in chosen {
            let site = &self.mutants[number].site;
            schemata.entry(site.path.clone()).or_default().push((number, &site.edit));
        }
        let written: BTreeMap<String, Schemata> =
            schemata.into_iter().map(|(path, edits)| (path.clone(), Schemata::write(&texts[&path], &edits))).collect();
        texts.extend(written.iter().map(|(path, schemata)| (path.clone(), schemata.text.clone())));
        texts.insert(MODULE.into(), CHOICE.into());
        texts.entry(ROOT.into()).or_default().push_str("\nextern crate std;\npub mod mutant;\n");
        place(&self.folder.join("tree"), &texts)?;
        Ok(written)
    }

    fn cargo(&self, target: Target) -> Result<Vec<Value>> {
        let built = self.folder.join(format!("built{}", target.flags.replace([' ', '-', '"', '='], "_")));
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(target.cargo).args(FAST).args(["--message-format=json", "--target-dir"]).arg(built);
        // Changed code is full of what lints are about.
        cargo.env("RUSTFLAGS", format!("--cap-lints=allow {}", target.flags).trim());
        // In pieces that see into each other: half the time, of each of hundreds of runs.
        cargo.env("CARGO_INCREMENTAL", "0").current_dir(self.folder.join("tree")).stdin(Stdio::null());
        let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
        let lines = String::from_utf8(output.stdout)?;
        Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// What an earlier build has left out.
    pub fn known(folder: &Path, mutants: &[Mutant]) -> BTreeSet<usize> {
        let text = fs::read_to_string(folder.join(DROPPED)).unwrap_or_default();
        let known: BTreeSet<&str> = text.lines().collect();
        (0..mutants.len()).filter(|&n| known.contains(&*mutants[n].id)).collect()
    }

    /// The next build need not find out again.
    fn note_dropped(&self) -> Result<()> {
        let ids: String = self.dropped.iter().map(|&n| format!("{}\n", self.mutants[n].id)).collect();
        Ok(fs::write(self.folder.join(DROPPED), ids)?)
    }

    fn drop_blamed(&mut self, messages: &[Value], written: &BTreeMap<String, Schemata>) -> Result<()> {
        let before = self.dropped.len();
        let mut unexplained = String::new();
        for error in messages.iter().filter(|message| message["message"]["level"] == "error") {
            let blamed = blamed(&error["message"], written);
            if blamed.is_empty() {
                unexplained += error["message"]["rendered"].as_str().unwrap_or("an error without a text\n");
            }
            self.dropped.extend(blamed);
        }
        ensure!(self.dropped.len() > before, "the copy does not compile, and no change is to blame:\n{unexplained}");
        println!("{} changes do not compile and are left out", self.dropped.len());
        self.note_dropped()
    }
}

/// Whom the first span speaks of that lies in a change, those where the
/// compiler sees the fault first.
fn blamed(message: &Value, written: &BTreeMap<String, Schemata>) -> Vec<usize> {
    let mut spans: Vec<&Value> = message["spans"].as_array().into_iter().flatten().collect();
    spans.sort_by_key(|span| span["is_primary"] != true);
    let of_span = |span: &&Value| {
        let schemata = written.get(span["file_name"].as_str()?)?;
        let (start, end) = (span["byte_start"].as_u64()? as usize, span["byte_end"].as_u64()? as usize);
        Some(schemata.blamed(start..end).to_vec()).filter(|numbers| !numbers.is_empty())
    };
    spans.iter().find_map(of_span).unwrap_or_default()
}

fn executable(messages: &[Value], target: Target) -> Option<Executable> {
    let done = messages.iter().any(|message| message["reason"] == "build-finished" && message["success"] == true);
    let ours = |message: &&Value| message["target"]["name"] == target.name && message["executable"].is_string();
    let artifact = messages.iter().find(ours).filter(|_| done)?;
    let path = artifact["executable"].as_str()?.into();
    let folder = Path::new(artifact["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Executable { path, folder })
}

/// Makes `folder` hold these files and no others.
pub fn place(folder: &Path, texts: &BTreeMap<String, String>) -> Result<()> {
    for (path, text) in texts {
        let path = folder.join(path);
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
    }
    for entry in WalkDir::new(folder) {
        let entry = entry?;
        let path = entry.path().strip_prefix(folder)?.to_string_lossy();
        // Cargo completes the lock file if it has to.
        if entry.file_type().is_file() && !texts.contains_key(&*path) && path != "Cargo.lock" {
            fs::remove_file(entry.path())?;
        }
    }
    if texts.is_empty() {
        bail!("nothing to copy");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::catalogue;
    use super::*;

    const TEXT: &str = "fn f() -> T { a + b < c }";

    fn written() -> BTreeMap<String, Schemata> {
        let tree = Tree::of(&[(ROOT, "mod map;"), ("vmalloc/src/map.rs", TEXT)]);
        let mutants = catalogue(&tree).unwrap();
        let edits: Vec<_> = mutants.iter().map(|mutant| &mutant.site.edit).enumerate().collect();
        BTreeMap::from([("vmalloc/src/map.rs".to_owned(), Schemata::write(TEXT, &edits))])
    }

    #[test]
    fn a_complaint_about_a_change_blames_it_and_the_primary_span_comes_first() {
        let written = written();
        let at = written["vmalloc/src/map.rs"].text.find("(a) - (b)").unwrap();
        let span = |start: usize, primary: bool| serde_json::json!({ "file_name": "vmalloc/src/map.rs", "byte_start": start, "byte_end": start + 9, "is_primary": primary });
        let message = serde_json::json!({ "spans": [span(14, false), span(at, true)] });
        assert_eq!(blamed(&message, &written), [0]);
        let elsewhere = serde_json::json!({ "spans": [{ "file_name": "b.rs", "byte_start": 1, "byte_end": 2 }] });
        assert_eq!(blamed(&elsewhere, &written), [0; 0]);
    }

    #[test]
    fn an_executable_counts_only_if_the_build_ended_well() {
        let target = Target { cargo: &[], needs: "", flags: "", name: "spec" };
        let artifact = serde_json::json!({
            "target": { "name": "spec" }, "executable": "/t/spec-1", "manifest_path": "/t/sim/Cargo.toml"
        });
        let ended = |success: bool| serde_json::json!({ "reason": "build-finished", "success": success });
        let found = executable(&[artifact.clone(), ended(true)], target).unwrap();
        assert_eq!((found.path, found.folder), ("/t/spec-1".into(), "/t/sim".into()));
        assert!(executable(&[artifact, ended(false)], target).is_none());
    }

    #[test]
    fn a_folder_holds_what_is_placed_there_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("vmalloc-mutants-{}", std::process::id()));
        let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        place(&folder, &of(&["a/b.rs", "c.rs"])).unwrap();
        place(&folder, &of(&["a/d.rs"])).unwrap();
        let left = ["a/b.rs", "c.rs", "a/d.rs"].map(|name| folder.join(name).exists());
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(left, [false, false, true]);
    }
}
