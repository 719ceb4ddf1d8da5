//! Long functions and long files.

use super::Finding;
use super::tree::{Source, Tree};
use proc_macro2::Span;
use std::fmt;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, ItemFn, Signature, TraitItemFn};

const FUNCTION: usize = 60;
const FILE: usize = 600;
/// In the library, apart from its tests and models.
const LIBRARY_FILE: usize = 500;
/// Half of the library's functions are not longer than this.
pub const MEDIAN: usize = 5;
/// Nine of ten of them are not longer than this.
pub const P90: usize = 15;

/// Functions and files over their limit, and a library whose functions have grown long.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.sources.iter().flat_map(check_source).collect();
    findings.extend(Lengths::of_library(tree).over());
    findings
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let most = if source.path.starts_with("vmalloc/src/") && !source.test { LIBRARY_FILE } else { FILE };
    if source.lines.len() > most {
        let what = format!("a file of {} lines; {most} is the most", source.lines.len());
        findings.push(Finding::new(&source.path, 0, what));
    }
    for Function { name, line, lines } in functions(source) {
        if lines > FUNCTION {
            let what = format!("{name} has {lines} lines; {FUNCTION} is the most");
            findings.push(Finding::new(&source.path, line, what));
        }
    }
    findings
}

/// How long the functions of a tree are, from the shortest to the longest.
pub struct Lengths(Vec<usize>);

impl Lengths {
    /// Of all functions, those of tests among them.
    pub fn of(tree: &Tree) -> Lengths {
        Lengths::sorted(tree.sources.iter())
    }

    /// Of the library's functions, without those in its files of tests and models.
    pub fn of_library(tree: &Tree) -> Lengths {
        let library = |source: &&Source| source.path.starts_with("vmalloc/src/") && !source.test;
        Lengths::sorted(tree.sources.iter().filter(library))
    }

    fn sorted<'a>(sources: impl Iterator<Item = &'a Source>) -> Lengths {
        let mut lengths: Vec<usize> = sources.flat_map(functions).map(|f| f.lines).collect();
        lengths.sort_unstable();
        Lengths(lengths)
    }

    /// The length that `percent` of the functions do not exceed.
    fn percentile(&self, percent: usize) -> usize {
        self.0.get(self.0.len() * percent / 100).copied().unwrap_or(0)
    }

    fn over(&self) -> Vec<Finding> {
        let bars = [("median", 50, MEDIAN), ("p90", 90, P90)];
        let over = bars.into_iter().filter(|&(_, percent, bar)| self.percentile(percent) > bar);
        let what =
            |(name, percent, bar)| format!("the {name} function has {} lines; bar {bar}", self.percentile(percent));
        over.map(|bar| Finding::new("vmalloc/src", 0, what(bar))).collect()
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, p90, longest) = (self.percentile(50), self.percentile(90), self.0.last().unwrap_or(&0));
        write!(f, "{} functions, median {median} lines, p90 {p90}, longest {longest}", self.0.len())
    }
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// All functions with a body, from their signature to the closing brace.
fn functions(source: &Source) -> Vec<Function> {
    let mut found = Found(Vec::new());
    found.visit_file(&source.ast);
    found.0
}

struct Found(Vec<Function>);

impl Found {
    fn add(&mut self, sig: &Signature, body: &Block) {
        let line = |span: Span| span.start().line;
        let (first, last) = (line(sig.span()), line(body.brace_token.span.close()));
        self.0.push(Function { name: sig.ident.to_string(), line: first, lines: last - first + 1 });
    }
}

impl<'a> Visit<'a> for Found {
    fn visit_item_fn(&mut self, f: &'a ItemFn) {
        self.add(&f.sig, &f.block);
        visit::visit_item_fn(self, f);
    }

    fn visit_impl_item_fn(&mut self, f: &'a ImplItemFn) {
        self.add(&f.sig, &f.block);
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'a TraitItemFn) {
        if let Some(body) = &f.default {
            self.add(&f.sig, body);
        }
        visit::visit_trait_item_fn(self, f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of that many lines.
    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_60_lines_passes_and_one_of_61_is_found() {
        let text = format!("{}impl A {{\n/// Doc.\n{}}}\n", function("fits", 60), function("long", 61));
        let tree = Tree::of(&[("a/src/lib.rs", &text)]);
        assert_eq!(check(&tree), [Finding::new("a/src/lib.rs", 63, "long has 61 lines; 60 is the most")]);
    }

    #[test]
    fn a_default_method_of_a_trait_has_a_length_too() {
        let text = format!("trait T {{\nfn short();\n{}}}", function("long", 99));
        let tree = Tree::of(&[("a/src/lib.rs", &text)]);
        assert_eq!(check(&tree), [Finding::new("a/src/lib.rs", 3, "long has 99 lines; 60 is the most")]);
    }

    #[test]
    fn a_file_of_600_lines_passes_and_one_of_601_is_found() {
        let (fits, long) = ("//\n".repeat(600), "//\n".repeat(601));
        let tree = Tree::of(&[("a/lib.rs", &fits), ("b/lib.rs", &long)]);
        assert_eq!(check(&tree), [Finding::new("b/lib.rs", 0, "a file of 601 lines; 600 is the most")]);
    }

    #[test]
    fn a_file_of_the_library_has_at_most_500_lines_unless_it_is_a_test() {
        let (fits, long) = ("//\n".repeat(500), "//\n".repeat(501));
        let root = "mod a; mod b; #[cfg(test)] mod tests;";
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", root),
            ("vmalloc/src/a.rs", &fits),
            ("vmalloc/src/b.rs", &long),
            ("vmalloc/src/tests.rs", &long),
        ]);
        assert_eq!(check(&tree), [Finding::new("vmalloc/src/b.rs", 0, "a file of 501 lines; 500 is the most")]);
    }

    #[test]
    fn the_median_is_that_of_all_functions() {
        let text = [1, 2, 3].map(|n| function(&format!("f{n}"), n * n + 1)).concat();
        let tree = Tree::of(&[("a/src/lib.rs", &text)]);
        assert_eq!(Lengths::of(&tree).to_string(), "3 functions, median 5 lines, p90 10, longest 10");
    }

    #[test]
    fn a_library_whose_usual_function_is_long_is_found_and_so_is_one_with_many_long_functions() {
        let said = |lengths: [usize; 10]| {
            let text = lengths.map(|lines| function("f", lines)).concat();
            let tree = Tree::of(&[("vmalloc/src/lib.rs", &text)]);
            check(&tree).into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert_eq!(said([5, 5, 5, 5, 5, 5, 15, 15, 15, 15]), [""; 0]);
        assert_eq!(said([5, 5, 5, 5, 5, 6, 15, 15, 15, 15]), ["the median function has 6 lines; bar 5"]);
        assert_eq!(said([5, 5, 5, 5, 5, 5, 5, 5, 5, 16]), ["the p90 function has 16 lines; bar 15"]);
    }

    #[test]
    fn other_crates_and_the_library_s_tests_may_have_longer_functions() {
        let long = function("f", 30);
        let tree = Tree::of(&[
            ("a/src/lib.rs", &long),
            ("vmalloc/src/lib.rs", "#[cfg(test)] mod tests;"),
            ("vmalloc/src/tests.rs", &long),
        ]);
        assert_eq!(check(&tree), []);
    }
}
