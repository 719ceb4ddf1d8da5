//! What became of each mutant, a line of JSON each, so that a run that was
//! stopped goes on where it was.

use super::catalogue::Mutant;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// What became of a mutant.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The mutant's name.
    pub id: String,
    /// Its part of the library.
    pub part: String,
    /// `file:line`
    pub place: String,
    /// The function.
    pub function: String,
    /// What is changed into what.
    pub change: String,
    /// The suite that caught it.
    pub caught: Option<String>,
    /// The test that failed, or what else happened.
    pub how: String,
    /// Time on the clock.
    pub seconds: f64,
}

impl Row {
    /// Of a mutant that was just tried.
    pub fn new(mutant: &Mutant, caught: Option<&str>, how: String, seconds: f64) -> Row {
        Row {
            id: mutant.id.clone(),
            part: mutant.part.to_owned(),
            place: format!("{}:{}", mutant.site.path, mutant.site.line),
            function: mutant.site.function.clone(),
            change: mutant.site.change.clone(),
            caught: caught.map(str::to_owned),
            how,
            seconds: (seconds * 100.0).round() / 100.0,
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id, "part": self.part, "place": self.place, "function": self.function, "change": self.change,
            "caught": self.caught, "how": self.how, "seconds": self.seconds
        })
    }

    fn of(line: &str) -> Option<Row> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Row {
            id: text("id")?,
            part: text("part")?,
            place: text("place")?,
            function: text("function")?,
            change: text("change")?,
            caught: text("caught"),
            how: text("how")?,
            seconds: value["seconds"].as_f64()?,
        })
    }
}

/// All rows in the order they were made.
#[derive(Default)]
pub struct Results {
    /// A mutant that was tried again has several.
    pub rows: Vec<Row>,
}

impl Results {
    /// Reads them; a last line that was cut off is no row.
    pub fn read(path: &Path) -> Results {
        let text = fs::read_to_string(path).unwrap_or_default();
        Results { rows: text.lines().filter_map(Row::of).collect() }
    }

    /// The first and the last row of each mutant.
    pub fn by_mutant(&self) -> BTreeMap<&str, (&Row, &Row)> {
        let mut all: BTreeMap<&str, (&Row, &Row)> = BTreeMap::new();
        for row in &self.rows {
            all.entry(&row.id).and_modify(|(_, last)| *last = row).or_insert((row, row));
        }
        all
    }

    /// Mutants that no suite has caught yet.
    pub fn survivors(&self) -> Vec<&Row> {
        self.by_mutant().into_values().map(|(_, last)| last).filter(|last| last.caught.is_none()).collect()
    }
}

/// Writes rows behind those that are there.
pub struct Journal(File);

impl Journal {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Journal> {
        let cut = fs::read(path).is_ok_and(|bytes| bytes.last().is_some_and(|&byte| byte != b'\n'));
        let mut file = OpenOptions::new().create(true).append(true).open(path).context("the results")?;
        if cut {
            writeln!(file)?;
        }
        Ok(Journal(file))
    }

    /// Writes one at once.
    pub fn add(&mut self, row: &Row) -> Result<()> {
        writeln!(self.0, "{}", row.json())?;
        Ok(self.0.flush()?)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn row(id: &str, part: &str, caught: Option<&str>) -> Row {
        let texts = |text: &str| text.to_owned();
        Row {
            id: id.into(),
            part: part.into(),
            place: texts("a.rs:1"),
            function: texts("f"),
            change: texts("a → b"),
            caught: caught.map(texts),
            how: texts("t::t"),
            seconds: 0.5,
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_a_line_that_was_cut_off_is_none() {
        let path = std::env::temp_dir().join(format!("vmalloc-mutants-{}.jsonl", std::process::id()));
        let rows = [row("1", "top", None), row("2", "space", Some("unit"))];
        Journal::open(&path).unwrap().add(&rows[0]).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"id\":\"9\",").unwrap();
        Journal::open(&path).unwrap().add(&rows[1]).unwrap();
        let read = Results::read(&path).rows;
        fs::remove_file(&path).unwrap();
        assert_eq!(read, rows);
    }

    #[test]
    fn a_survivor_that_was_caught_later_is_none_any_more() {
        let rows = vec![row("1", "top", None), row("2", "top", None), row("1", "top", Some("spec"))];
        let results = Results { rows };
        assert_eq!(results.survivors(), [&results.rows[1]]);
        assert_eq!(results.by_mutant()["1"], (&results.rows[0], &results.rows[2]));
    }
}
