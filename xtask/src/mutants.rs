//! Breaks the library on purpose, one small change at a time, and sees whether
//! the tests notice.
//!
//! ```text
//!   sources ── sites ──▶ catalogue ── sample ──▶ schemata: a copy with these changes in it,
//!                                       │        each behind a choice at run time; built once
//!                                       └──▶ for each: suites, cheapest first, until one fails
//!                                                     └──▶ results.jsonl ──▶ the record
//! ```
//!
//! All of it lies in `target/mutants`: `original` has the sources as they were
//! when the run began, `tree` the copy, `results.jsonl` a line a mutant. The
//! record, with a verdict about each survivor, is `vmalloc/docs/mutants.md`.

mod build;
mod catalogue;
mod hunt;
mod operators;
mod options;
mod record;
mod results;
mod schemata;
mod sites;
mod suites;
mod watch;

use crate::project::Project;
use crate::tidy::tree::Tree;
use anyhow::{Context, Result, ensure};
use build::{Copy, place};
use catalogue::{Mutant, PARTS, catalogue, sample};
use hunt::Hunt;
use options::{Options, What};
use results::{Journal, Results};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use suites::Suite;

const RECORD: &str = "vmalloc/docs/mutants.md";

/// What `help` says.
pub const ABOUT: &str = options::ABOUT;

/// Does what the arguments ask for.
pub fn run(project: &Project, args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(args)?;
    let place = Place { folder: project.built.join("mutants") };
    match &options.what {
        What::Count => count(&catalogue(&Tree::read(project)?)?),
        What::Record => write_record(project, &place)?,
        What::Fresh => {
            place.begin(&options)?;
            place.copy_sources(project)?;
            place.work(project, &options)?;
        }
        What::Resume => place.work(project, &place.began(&options)?)?,
        What::Survivors | What::Only(_) => {
            place.copy_sources(project)?;
            place.work(project, &options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn count(mutants: &[Mutant]) {
    for part in PARTS {
        println!("{part:<7} {}", mutants.iter().filter(|mutant| mutant.part == part).count());
    }
    println!("all     {}", mutants.len());
}

fn write_record(project: &Project, place: &Place) -> Result<()> {
    let results = Results::read(&place.results());
    ensure!(!results.rows.is_empty(), "no results in {}", place.folder.display());
    let Options { sample, seed, .. } = place.began(&Options::parse(&[])?)?;
    let command = format!("cargo xtask mutants --sample {sample} --seed {seed}");
    let path = project.root.join(RECORD);
    let text = record::record(&results, &command, &fs::read_to_string(&path).unwrap_or_default());
    fs::create_dir_all(path.parent().context("a folder")?)?;
    fs::write(&path, &text)?;
    print!("{text}");
    Ok(())
}

/// Where everything lies.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn results(&self) -> PathBuf {
        self.folder.join("results.jsonl")
    }

    /// Puts the results of an earlier run aside, and notes what this one is.
    fn begin(&self, options: &Options) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        if self.results().exists() {
            fs::rename(self.results(), self.folder.join("results.before.jsonl"))?;
        }
        let run = serde_json::json!({ "sample": options.sample, "seed": options.seed });
        Ok(fs::write(self.folder.join("run.json"), run.to_string())?)
    }

    /// What the run was that is resumed.
    fn began(&self, options: &Options) -> Result<Options> {
        let text = fs::read_to_string(self.folder.join("run.json")).context("no run to go on with")?;
        let run: Value = serde_json::from_str(&text)?;
        let number = |name: &str| run[name].as_u64().context("run.json");
        Ok(Options { sample: number("sample")? as usize, seed: number("seed")?, ..options.clone() })
    }

    fn copy_sources(&self, project: &Project) -> Result<()> {
        let texts = Tree::read(project)?.texts.into_iter().map(|file| (file.path, file.text)).collect();
        place(&self.folder.join("original"), &texts)
    }

    fn work(&self, project: &Project, options: &Options) -> Result<()> {
        let root = self.folder.join("original");
        let original = Project { root, built: project.built.clone(), targets: project.targets.clone() };
        let tree = Tree::read(&original)?;
        let mutants = catalogue(&tree)?;
        let present = suites::ALL.iter().filter(|suite| tree.texts.iter().any(|file| file.path == suite.target.needs));
        let suites: Vec<&Suite> = present.collect();
        let dropped = Copy::known(&self.folder, &mutants);
        let mut copy = Copy { folder: &self.folder, tree: &tree, mutants: &mutants, dropped };
        let results = Results::read(&self.results());
        let choose = |dropped: &BTreeSet<usize>| wanted(&mutants, dropped, options, &results);
        let executables = copy.build(&suites.iter().map(|suite| suite.target).collect(), choose)?;
        let wanted = untried(choose(&copy.dropped)?, &mutants, options, &results);
        let journal = match options.what {
            What::Only(_) => None,
            _ => Some(Journal::open(&self.results())?),
        };
        println!("{} of {} changes to try, {} do not compile", wanted.len(), mutants.len(), copy.dropped.len());
        Hunt { suites, executables, mutants: &mutants }.run(&wanted, options.jobs, journal)?;
        println!("{}", record::record(&Results::read(&self.results()), "this command", ""));
        Ok(())
    }
}

/// Of those, the ones that a run that was stopped has left.
fn untried(mut wanted: Vec<usize>, mutants: &[Mutant], options: &Options, results: &Results) -> Vec<usize> {
    if options.what == What::Resume {
        let done = results.by_mutant();
        wanted.retain(|&number| !done.contains_key(&*mutants[number].id));
    }
    wanted
}

/// The mutants that are written into the copy, by number.
fn wanted(mutants: &[Mutant], dropped: &BTreeSet<usize>, options: &Options, results: &Results) -> Result<Vec<usize>> {
    let numbers: BTreeMap<&str, usize> = mutants.iter().enumerate().map(|(n, mutant)| (&*mutant.id, n)).collect();
    match &options.what {
        What::Only(id) => {
            let number = *numbers.get(id.as_str()).with_context(|| format!("no mutant {id}"))?;
            ensure!(!dropped.contains(&number), "{id} does not compile");
            Ok(vec![number])
        }
        What::Survivors => {
            let mut here = Vec::new();
            for row in results.survivors() {
                match numbers.get(&*row.id) {
                    Some(&number) => here.push(number),
                    None => println!("{} {} is gone: the code has changed", row.id, row.place),
                }
            }
            Ok(here)
        }
        _ => {
            let compiled: Vec<usize> = (0..mutants.len()).filter(|number| !dropped.contains(number)).collect();
            let of: Vec<Mutant> = compiled.iter().map(|&number| mutants[number].clone()).collect();
            Ok(sample(&of, options.sample, options.seed).into_iter().map(|n| compiled[n]).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::results::tests::row;
    use super::*;

    fn mutants() -> Vec<Mutant> {
        let text = "fn f() -> T { a + b + c + d + e + f }";
        catalogue(&Tree::of(&[("vmalloc/src/lib.rs", "mod map;"), ("vmalloc/src/map.rs", text)])).unwrap()
    }

    fn options(what: What) -> Options {
        Options { what, sample: 4, seed: 1, jobs: 1 }
    }

    #[test]
    fn a_resumed_run_tries_what_was_not_tried_and_nothing_that_does_not_compile() {
        let all = mutants();
        let fresh = wanted(&all, &BTreeSet::new(), &options(What::Fresh), &Results::default()).unwrap();
        assert_eq!(fresh.len(), 4);
        let done = Results { rows: vec![row(&all[fresh[0]].id, "top", Some("unit"))] };
        let again = wanted(&all, &BTreeSet::new(), &options(What::Resume), &done).unwrap();
        assert_eq!(again, fresh, "the same copy");
        assert_eq!(untried(again, &all, &options(What::Resume), &done), fresh[1..]);
        let without = wanted(&all, &BTreeSet::from([fresh[1]]), &options(What::Fresh), &Results::default()).unwrap();
        assert!(without.len() == 4 && !without.contains(&fresh[1]));
    }

    #[test]
    fn survivors_are_tried_again_unless_their_code_is_gone() {
        let all = mutants();
        let rows =
            vec![row(&all[2].id, "top", None), row(&all[3].id, "top", Some("unit")), row("ffffffff", "top", None)];
        let again = wanted(&all, &BTreeSet::new(), &options(What::Survivors), &Results { rows }).unwrap();
        assert_eq!(again, [2]);
    }

    #[test]
    fn one_is_tried_by_its_name() {
        let all = mutants();
        let only = |id: &str| wanted(&all, &BTreeSet::from([1]), &options(What::Only(id.into())), &Results::default());
        assert_eq!(only(&all[2].id).unwrap(), [2]);
        assert!(only(&all[1].id).unwrap_err().to_string().ends_with("does not compile"));
        assert_eq!(only("x").unwrap_err().to_string(), "no mutant x");
    }
}
