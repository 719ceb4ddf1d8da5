//! Code in the library that only tests call.
//!
//! The compiler sees a function that nobody calls, but not one that only tests call, if the
//! function is `pub` in a room that others can name. So this check looks for the name of each
//! function outside of tests: in the library and, for what others can name, in the crates that
//! are built on it. It knows names alone: two functions of one name pass for each other.
//!
//! Not looked at: methods of traits, which are called by way of the trait, and the interface
//! that embedders and callers use ([`INTERFACE`], [`ALLOWED`]).

use super::Finding;
use super::tokens::{each_group, is, only_for_tests, shipped};
use super::tree::{Source, Tree};
use proc_macro2::{Delimiter, Span, TokenTree};
use std::collections::BTreeMap;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, ItemFn, ItemImpl, ItemMod, Signature, Visibility};

/// Rooms, and modules in them, whose public functions are there for others to call.
const INTERFACE: [&str; 8] = ["api", "area", "error", "gfp", "machine", "units", "state::config", "state::stats"];
/// Functions of other rooms that are there for others to call: where, which, and why.
const ALLOWED: [(&str, &str, &str); 1] =
    [("vmalloc/src/frames/zones.rs", "bad_frees", "a kernel that uses Zones reports what it has given back wrongly")];
/// Crates that are proofs of the library or tools of the project.
const PROOFS: [&str; 3] = ["interleave/", "suite/", "xtask/"];

/// Functions that nothing calls outside of tests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let ships = |source: &&Source| !source.test && !PROOFS.iter().any(|proof| source.path.starts_with(proof));
    let mut uses = Uses::default();
    tree.sources.iter().filter(ships).for_each(|source| uses.add(source));
    let library = tree.sources.iter().filter(ships).filter(|source| source.path.starts_with("vmalloc/src/"));
    library.flat_map(|source| check_source(source, &uses)).collect()
}

fn check_source(source: &Source, uses: &Uses) -> Vec<Finding> {
    let mut functions = Functions { found: Vec::new() };
    functions.visit_file(&source.ast);
    let mut findings = Vec::new();
    for function in functions.found {
        if !is_interface(source, &function) && !uses.any(source, &function) {
            let what = format!("only tests call {}", function.name);
            findings.push(Finding::new(&source.path, function.lines.0, what));
        }
    }
    findings
}

/// Whether the function is there for others to call.
fn is_interface(source: &Source, function: &Function) -> bool {
    let module = source.module.join("::");
    let room = INTERFACE.iter().any(|room| module == *room || module.starts_with(&format!("{room}::")));
    function.public && (room || ALLOWED.iter().any(|(path, name, _)| source.path == *path && function.name == *name))
}

/// Where code that ships has each name: as a call or as the end of a path, and in any other way.
#[derive(Default)]
struct Uses {
    called: Places,
    named: Places,
}

type Places = BTreeMap<String, Vec<(String, usize)>>;

impl Uses {
    fn add(&mut self, source: &Source) {
        each_group(shipped(source), &mut |tokens| {
            for (at, token) in tokens.iter().enumerate() {
                if let TokenTree::Ident(name) = token
                    && !matches!(&tokens[..at], [.., TokenTree::Ident(word)] if word == "fn")
                {
                    let called = is_called(&tokens[..at], &tokens[at + 1..]);
                    let places = if called { &mut self.called } else { &mut self.named };
                    let place = (source.path.clone(), name.span().start().line);
                    places.entry(name.to_string()).or_default().push(place);
                }
            }
        });
    }

    /// Whether anything but the function itself has its name. A method is not meant where
    /// neither a path nor arguments stand beside its name.
    fn any(&self, source: &Source, function: &Function) -> bool {
        let (first, last) = function.lines;
        let elsewhere = |(path, line): &(String, usize)| *path != source.path || !(first..=last).contains(line);
        let among = |places: &Places| places.get(&function.name).is_some_and(|all| all.iter().any(elsewhere));
        among(&self.called) || !function.method && among(&self.named)
    }
}

/// Whether a name between these tokens ends a path or has arguments.
fn is_called(before: &[TokenTree], after: &[TokenTree]) -> bool {
    let path = matches!(before, [.., a, b] if is(a, ':') && is(b, ':'));
    let generic = matches!(after, [a, b, c, ..] if is(a, ':') && is(b, ':') && is(c, '<'));
    let arguments = matches!(after, [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Parenthesis);
    path || generic || arguments
}

struct Function {
    name: String,
    public: bool,
    method: bool,
    lines: (usize, usize),
}

/// Functions, and methods that belong to no trait.
struct Functions {
    found: Vec<Function>,
}

impl Functions {
    fn add(&mut self, attrs: &[Attribute], vis: &Visibility, sig: &Signature, last: Span, method: bool) {
        if !attrs.iter().any(only_for_tests) {
            let lines = (sig.ident.span().start().line, last.end().line);
            let public = matches!(vis, Visibility::Public(_));
            self.found.push(Function { name: sig.ident.to_string(), public, method, lines });
        }
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !item.attrs.iter().any(only_for_tests) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if item.trait_.is_none() && !item.attrs.iter().any(only_for_tests) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_fn(&mut self, f: &'a ItemFn) {
        self.add(&f.attrs, &f.vis, &f.sig, f.block.brace_token.span.close(), false);
    }

    fn visit_impl_item_fn(&mut self, f: &'a ImplItemFn) {
        self.add(&f.attrs, &f.vis, &f.sig, f.block.brace_token.span.close(), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `text` as a module of the library that `user`, another crate, is built on.
    fn said(module: &str, text: &str, user: &str) -> Vec<String> {
        let path = format!("vmalloc/src/{module}.rs");
        let root = "mod api; mod space; mod b;";
        let tree = Tree::of(&[
            ("vmalloc/src/lib.rs", root),
            (&path, text),
            ("vmalloc/src/b.rs", "fn f(a: A) { a.called(); let lone = A { field }; b::<u8>(A::passed) }"),
            ("user/src/lib.rs", user),
            ("suite/src/lib.rs", "fn f(a: A) { a.proven() }"),
            ("user/tests/t.rs", "fn f(a: A) { a.tested() }"),
        ]);
        let findings = check(&tree).into_iter().filter(|finding| finding.path == path);
        findings.map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn functions_that_only_tests_call_are_found() {
        for (text, name) in [
            ("impl A { pub fn tested(&self) {} }", "tested"),
            ("impl A { pub(crate) fn proven(&self) {} }", "proven"),
            ("pub fn own() {} #[cfg(test)] mod tests { fn f() { own() } }", "own"),
            ("pub const fn again(n: u8) { again(n - 1) }", "again"),
            ("impl A { pub fn lone(&self) {} pub const fn called(&self) {} }", "lone"),
            ("impl A { pub fn field(&self) {} }", "field"),
        ] {
            let found = [format!("vmalloc/src/space.rs:1: only tests call {name}")];
            assert_eq!(said("space", text, ""), found, "{text}");
        }
    }

    #[test]
    fn what_ships_calls_by_arguments_by_path_and_by_import() {
        assert_eq!(said("space", "impl A { pub fn called(&self) {} pub fn passed(&self) {} }", ""), [""; 0]);
        assert_eq!(said("space", "pub fn taken() {}", "use vmalloc::space::{B, taken};"), [""; 0]);
        assert_eq!(said("space", "impl A { pub fn given(&self) {} }", "fn f(a: A) { g!(a.given()) }"), [""; 0]);
    }

    #[test]
    fn tests_traits_and_the_interface_are_not_looked_at() {
        assert_eq!(said("space", "#[cfg(test)] fn a() {} impl A { #[cfg(any(test, loom))] fn b() {} }", ""), [""; 0]);
        assert_eq!(said("space", "impl T for A { fn a(&self) {} }", ""), [""; 0]);
        assert_eq!(said("api", "impl A { pub fn a(&self) {} }", ""), [""; 0]);
        assert_eq!(
            said("api", "impl A { pub(crate) fn a(&self) {} }", ""),
            ["vmalloc/src/api.rs:1: only tests call a"]
        );
    }
}
