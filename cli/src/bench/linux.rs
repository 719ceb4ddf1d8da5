//! `vmalloc bench linux`: Linux's own cases, counted to the instruction.

use super::events::Events;
use super::figures::Figures;
use super::listen;
use super::measured::{self, Measured};
use super::row::Row;
use super::steps::{self, Symbols};
use super::{table, write_json};
use crate::options::{LinuxBench, PolicyName, word};
use crate::qemu::tools::Tools;
use anyhow::{Result, anyhow};
use std::thread;
use vmalloc_suite::Case;

/// Linux's flush threshold on one CPU: 32 MiB.
const LINUX_THRESHOLD: usize = 8192;

const POLICIES: [PolicyName; 3] = [PolicyName::Unmap, PolicyName::Park, PolicyName::Keep];

type Cases = Vec<(String, Measured)>;

/// Measures, prints, writes.
pub fn run(options: &LinuxBench, tools: &Tools, out: &mut String) -> Result<()> {
    let linux = Figures::read()?;
    let runs = Runs { tools, options };
    let rows = runs.rows(&linux, None)?;
    if let Some(path) = &options.json {
        let list: Vec<_> = rows.iter().map(Row::json).collect();
        write_json(path, &list)?;
    }
    table::write_rows(out, &rows)?;
    table::write_misses(out, &rows)?;
    if !options.quick {
        table::write_threshold(out, &runs.rows(&linux, Some(LINUX_THRESHOLD))?)?;
        table::write_events(out, &runs.events(&rows)?)?;
    }
    Ok(())
}

struct Runs<'a> {
    tools: &'a Tools,
    options: &'a LinuxBench,
}

impl Runs<'_> {
    /// A row a case, each policy in a machine of its own.
    fn rows(&self, linux: &[Figures], threshold: Option<usize>) -> Result<Vec<Row>> {
        // Machines that count instructions count the same beside each other.
        let [unmap, park, keep] = thread::scope(|scope| {
            let runs = POLICIES.map(|policy| scope.spawn(move || self.policy(policy, threshold)));
            runs.map(|run| run.join().map_err(|_| anyhow!("a run panicked")).flatten())
        });
        let (unmap, park, keep) = (unmap?, park?, keep?);
        let of = |cases: &Cases, name: &str| cases.iter().find(|(case, _)| case == name).map(|(_, of)| of.clone());
        let wanted = |linux: &&Figures| self.options.case.as_ref().is_none_or(|case| *case == linux.case);
        let rows = linux.iter().filter(wanted).map(|linux| Row {
            unmap: of(&unmap, &linux.case),
            park: of(&park, &linux.case),
            keep: of(&keep, &linux.case),
            linux: linux.clone(),
        });
        Ok(rows.collect())
    }

    /// Every case under a policy.
    fn policy(&self, policy: PolicyName, threshold: Option<usize>) -> Result<Cases> {
        let mut settings = vec![format!("policy={}", word(policy))];
        settings.extend(threshold.map(|pages| format!("load={pages}")));
        let command = match &self.options.case {
            Some(case) => format!("bench {case}"),
            None => "bench".to_owned(),
        };
        let records = listen(self.tools, 1, settings, vec![command])?;
        measured::read(&records, |name| name.parse().is_ok_and(Case::clears))
    }

    /// What each case causes: it is stepped through under Unmap.
    fn events(&self, rows: &[Row]) -> Result<Vec<Events>> {
        let symbols = Symbols::load(&self.tools.image)?;
        let commands = rows.iter().map(|row| format!("bench {} steps", row.linux.case)).collect();
        let stepped = steps::read(&listen(self.tools, 1, vec!["policy=unmap".to_owned()], commands)?)?;
        let events = rows.iter().filter_map(|row| {
            let case = &row.linux.case;
            let steps = stepped.iter().find(|steps| steps.name == *case);
            Some(Events::new(case, row.unmap.as_ref()?, steps, &symbols))
        });
        events.collect()
    }
}
