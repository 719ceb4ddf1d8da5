//! The record that is kept with the sources: how many were caught, and what is
//! to say about each that was not. People write the verdicts; they stay when
//! the record is written anew.

use super::catalogue::PARTS;
use super::results::{Results, Row};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The record of `results`, with the verdicts of the one `before`.
pub fn record(results: &Results, run: &str, before: &str) -> String {
    let verdicts = verdicts(before);
    let mut text = format!(
        "# Mutants\n\n\
         The library is broken on purpose, one small change at a time, and the tests have to notice. What is changed, and\n\
         how, is told by `xtask/src/mutants.rs`; the verdicts below are written by hand, the rest by\n\n    {run}\n\n"
    );
    text += &totals(results, &verdicts);
    text += "\n## Survivors\n\n| Mutant | Place | Change | Verdict |\n|---|---|---|---|\n";
    for (first, last) in results.by_mutant().into_values().filter(|(first, _)| first.caught.is_none()) {
        let closed = last.caught.as_ref().map(|suite| format!("closed by {suite}: `{}`", last.how));
        let verdict = closed.or_else(|| verdicts.get(last.id.as_str()).cloned()).unwrap_or_default();
        let Row { id, place, function, change, .. } = first;
        let _infallible = writeln!(text, "| {id} | `{place}` {function} | `{}` | {verdict} |", cell(change));
    }
    text
}

fn totals(results: &Results, verdicts: &BTreeMap<&str, String>) -> String {
    let mut text =
        "| Part | Sampled | Caught at first | Caught now | Equivalent | By |\n|---|---|---|---|---|---|\n".to_owned();
    let all = results.by_mutant();
    for part in PARTS.into_iter().map(Some).chain([None]) {
        let of_part: Vec<_> = all.values().filter(|(row, _)| part.is_none_or(|part| row.part == part)).collect();
        let caught = |row: &Row| row.caught.is_some();
        let first = of_part.iter().filter(|(first, _)| caught(first)).count();
        let now = of_part.iter().filter(|(_, last)| caught(last)).count();
        let equivalent =
            |row: &Row| verdicts.get(row.id.as_str()).is_some_and(|verdict| verdict.starts_with("equivalent"));
        let same = of_part.iter().filter(|(_, last)| !caught(last) && equivalent(last)).count();
        let mut by: BTreeMap<&str, usize> = BTreeMap::new();
        of_part
            .iter()
            .filter_map(|(_, last)| last.caught.as_deref())
            .for_each(|suite| *by.entry(suite).or_default() += 1);
        let by: Vec<String> = by.iter().map(|(suite, count)| format!("{suite} {count}")).collect();
        let (n, part, by) = (of_part.len(), part.unwrap_or("all"), by.join(", "));
        let _infallible = writeln!(
            text,
            "| {part} | {n} | {first} ({}) | {now} ({}) | {same} | {by} |",
            percent(first, n),
            percent(now, n)
        );
    }
    text
}

fn percent(some: usize, all: usize) -> String {
    match all {
        0 => "–".into(),
        all => format!("{:.1} %", some as f64 * 100.0 / all as f64),
    }
}

/// The last cell of each row that begins with a mutant's name.
fn verdicts(record: &str) -> BTreeMap<&str, String> {
    let is_id = |id: &str| id.len() == 8 && id.chars().all(|c| c.is_ascii_hexdigit());
    let mut all = BTreeMap::new();
    for line in record.lines() {
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")).unwrap_or_default();
        if let [id, _, _, verdict @ ..] = &cells.split(" | ").collect::<Vec<_>>()[..]
            && is_id(id)
            && verdict != [""]
        {
            all.insert(*id, verdict.join(" | "));
        }
    }
    all
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('`', "'")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::row;
    use super::*;

    #[test]
    fn the_record_counts_by_part_and_keeps_verdicts() {
        let survivor = row("0000000b", "top", None);
        let rows = vec![
            row("0000000a", "top", Some("unit")),
            Row { change: "a || b → &&".into(), ..survivor },
            row("0000000c", "space", None),
            row("0000000c", "space", Some("spec")),
        ];
        let results = Results { rows };
        let blank = record(&results, "the command", "");
        assert!(blank.contains("\n| top | 2 | 1 (50.0 %) | 1 (50.0 %) | 0 | unit 1 |\n"), "{blank}");
        assert!(blank.contains("\n| all | 3 | 1 (33.3 %) | 2 (66.7 %) | 0 | spec 1, unit 1 |\n"), "{blank}");
        assert!(blank.contains("\n| 0000000c | `a.rs:1` f | `a → b` | closed by spec: `t::t` |\n"), "{blank}");
        let open = "| 0000000b | `a.rs:1` f | `a \\|\\| b → &&` |  |";
        assert!(blank.contains(open), "{blank}");
        let judged = blank.replace(open, &open.replace("|  |", "| equivalent: b is never true |"));
        let again = record(&results, "the command", &judged);
        assert!(again.contains("| equivalent: b is never true |"), "{again}");
        assert!(again.contains("\n| top | 2 | 1 (50.0 %) | 1 (50.0 %) | 1 | unit 1 |\n"), "{again}");
    }
}
