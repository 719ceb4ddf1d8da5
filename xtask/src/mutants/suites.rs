//! The tests that look for a mutant: the table to extend.

use super::catalogue::Mutant;
use super::sites::Site;
use crate::tidy::floors::MIDDLE;

/// Tests of one executable.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What the record calls it.
    pub name: &'static str,
    /// What cargo builds; without the file in the second place it is left out.
    pub target: Target,
    /// What the executable is called with.
    pub args: &'static [&'static str],
    /// And its environment.
    pub env: &'static [(&'static str, &'static str)],
    /// Which mutants it looks at.
    pub looks_at: LooksAt,
}

/// What cargo is asked to build.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// Its arguments.
    pub cargo: &'static [&'static str],
    /// A file that is there if the target is.
    pub needs: &'static str,
    /// More flags for rustc, and then a folder of its own.
    pub flags: &'static str,
    /// The name of the executable's crate.
    pub name: &'static str,
}

/// Which mutants a suite looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LooksAt {
    /// All of them.
    All,
    /// Those of the middle, with the tests of the mutant's own module only.
    Near,
    /// All of them, without the tests of the middle modules that cannot reach
    /// the mutant, because those modules never name each other, nor the top.
    Reached,
}

const UNIT: Target = Target {
    cargo: &["test", "--no-run", "-p", "vmalloc", "--lib"],
    needs: "vmalloc/src/lib.rs",
    flags: "",
    name: "vmalloc",
};
const SPEC: Target = Target {
    cargo: &["test", "--no-run", "-p", "vmalloc-sim", "--test", "spec"],
    needs: "machines/sim/tests/spec/main.rs",
    flags: "",
    name: "spec",
};
const ORACLE: Target = Target {
    cargo: &["test", "--no-run", "-p", "vmalloc-sim", "--test", "oracle"],
    needs: "machines/sim/tests/oracle/main.rs",
    flags: "",
    name: "oracle",
};

const HOSTED: Target = Target {
    cargo: &["test", "--no-run", "-p", "vmalloc-hosted", "--test", "areas"],
    needs: "machines/hosted/tests/areas.rs",
    flags: "",
    name: "areas",
};

const INTERLEAVE: Target = Target {
    cargo: &["build", "--profile", "interleave", "-p", "vmalloc-interleave"],
    needs: "interleave/src/main.rs",
    flags: "--cfg interleave",
    name: "interleave",
};

/// Of the test harness.
const ONE_THREAD: &str = "--test-threads=1";
/// They interrupt at every step, and take longer than all others together.
const NMI: &str = "nmi::";

/// All suites, in the order they run: the cheapest and the likeliest first.
pub const ALL: &[Suite] = &[
    Suite {
        name: "oracle",
        target: ORACLE,
        args: &["promises", ONE_THREAD],
        env: &[("ORACLE_OPS", "20000")],
        looks_at: LooksAt::All,
    },
    Suite { name: "unit", target: UNIT, args: &[ONE_THREAD], env: &[], looks_at: LooksAt::Near },
    Suite { name: "spec", target: SPEC, args: &[ONE_THREAD, "--skip", NMI], env: &[], looks_at: LooksAt::All },
    // The same schedules each time, a few of each scenario under each scheduler.
    Suite { name: "interleave", target: INTERLEAVE, args: &["look", "100"], env: &[], looks_at: LooksAt::All },
    Suite { name: "unit", target: UNIT, args: &[ONE_THREAD], env: &[], looks_at: LooksAt::Reached },
    Suite {
        name: "oracle",
        target: ORACLE,
        args: &["promises", ONE_THREAD],
        env: &[("ORACLE_OPS", "200000")],
        looks_at: LooksAt::All,
    },
    Suite { name: "spec", target: SPEC, args: &[ONE_THREAD, NMI], env: &[], looks_at: LooksAt::All },
    // What is compiled for machines of threads, and for mirrored ones, runs nowhere else.
    Suite { name: "hosted", target: HOSTED, args: &[ONE_THREAD], env: &[], looks_at: LooksAt::All },
];

impl Suite {
    /// The arguments for this mutant; `None` where the suite has nothing to
    /// say about it.
    pub fn args_for(&self, mutant: &Mutant) -> Option<Vec<String>> {
        let chosen = match self.looks_at {
            LooksAt::All => Vec::new(),
            LooksAt::Near if mutant.part == "top" => return None,
            LooksAt::Near => vec![module_of(&mutant.site)],
            LooksAt::Reached => {
                let others = MIDDLE.iter().filter(|middle| **middle != mutant.part);
                others.flat_map(|other| ["--skip".to_owned(), format!("{other}::")]).collect()
            }
        };
        let args = self.args.iter().map(|arg| (*arg).to_owned());
        Some(args.chain(chosen).collect())
    }
}

/// `space::arena::` for the file `vmalloc/src/space/arena.rs`.
fn module_of(site: &Site) -> String {
    let path = site.path.trim_start_matches("vmalloc/src/").trim_end_matches(".rs");
    format!("{}::", path.replace('/', "::"))
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::catalogue;
    use super::*;
    use crate::tidy::tree::Tree;

    #[test]
    fn a_mutant_of_the_middle_meets_the_tests_of_its_module_first() {
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", "mod space; mod map;"),
            ("vmalloc/src/space.rs", "mod arena;"),
            ("vmalloc/src/space/arena.rs", "fn f() { g(); }"),
            ("vmalloc/src/map.rs", "fn f() { g(); }"),
        ]);
        let all = catalogue(&tree).unwrap();
        let [map, .., arena] = &all[..] else { panic!("two files") };
        let near = ALL.iter().find(|suite| suite.looks_at == LooksAt::Near).unwrap();
        assert_eq!(near.args_for(arena).unwrap(), ["--test-threads=1", "space::arena::"]);
        assert_eq!(near.args_for(map), None);
        let rest = ALL.iter().find(|suite| suite.looks_at == LooksAt::Reached).unwrap();
        let last = rest.args_for(arena).unwrap().join(" ");
        assert_eq!(last, "--test-threads=1 --skip flush:: --skip frames:: --skip table::");
        assert_eq!(ALL[0].args_for(map).unwrap(), ["promises", "--test-threads=1"]);
    }
}
