//! The arguments of `cargo xtask mutants`.

use anyhow::{Context, Result, bail, ensure};

/// For the help text.
pub const ABOUT: &str = "\
cargo xtask mutants         breaks the library in small ways, and sees whether the tests notice
                            --sample N (200) --seed S (1) --jobs N (1, at most 2): a fresh run
                            --resume: go on with a run that was stopped, on the sources as they were then
                            --survivors: try what was not caught again, on the sources as they are now
                            --only ID: try one and show what the tests say
                            --record: write the record, vmalloc/docs/mutants.md; --count: how many there are
";

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A sample from the sources as they are.
    Fresh,
    /// What a run that was stopped has left.
    Resume,
    /// What no test noticed so far.
    Survivors,
    /// The mutant of this name.
    Only(String),
    /// Write the record.
    Record,
    /// Count them.
    Count,
}

/// What to do, and with how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// What to do.
    pub what: What,
    /// How many to draw.
    pub sample: usize,
    /// Which ones.
    pub seed: u64,
    /// How many at a time.
    pub jobs: usize,
}

impl Options {
    /// Reads them.
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { what: What::Fresh, sample: 200, seed: 1, jobs: 1 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--sample" => options.sample = value()?.parse().context("--sample")?,
                "--seed" => options.seed = value()?.parse().context("--seed")?,
                "--jobs" => options.jobs = value()?.parse().context("--jobs")?,
                "--resume" => options.what = What::Resume,
                "--survivors" => options.what = What::Survivors,
                "--only" => options.what = What::Only(value()?.clone()),
                "--record" => options.what = What::Record,
                "--count" => options.what = What::Count,
                _ => bail!("{arg}?\n\n{ABOUT}"),
            }
        }
        ensure!((1..=2).contains(&options.jobs), "--jobs is 1 or 2");
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_have_values_and_defaults() {
        let all = parse("--sample 30 --seed 7 --jobs 2 --only 0a").unwrap();
        assert_eq!(all, Options { what: What::Only("0a".into()), sample: 30, seed: 7, jobs: 2 });
        assert_eq!(parse("").unwrap(), Options { what: What::Fresh, sample: 200, seed: 1, jobs: 1 });
    }

    #[test]
    fn what_is_unknown_or_too_much_is_refused() {
        assert!(parse("--smaple 3").unwrap_err().to_string().starts_with("--smaple?"));
        assert_eq!(parse("--seed").unwrap_err().to_string(), "--seed needs a value");
        assert_eq!(parse("--jobs 3").unwrap_err().to_string(), "--jobs is 1 or 2");
    }
}
