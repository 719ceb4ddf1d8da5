//! `unsafe` that does not say why it is right.
//!
//! A block, an `unsafe impl` and an `unsafe extern` have a `SAFETY:` comment
//! right above themselves or their statement; an `unsafe fn` and an
//! `unsafe trait` have a `# Safety` section, unless they implement a trait
//! that has one.

use super::Finding;
use super::tokens::each_group;
use super::tree::{Source, Tree};
use proc_macro2::{Delimiter, Span, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, ExprUnsafe, ImplItemFn, ItemFn, ItemForeignMod, ItemImpl, ItemTrait, Macro, Safety, Signature,
    Stmt, TraitItemFn,
};

/// Every such place, in tests as well.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut look = Look { source, statement: 0, for_trait: false, findings: Vec::new() };
    look.visit_file(&source.ast);
    look.findings
}

struct Look<'a> {
    source: &'a Source,
    /// The first line of the innermost statement, match arm or item.
    statement: usize,
    /// In an `impl` of a trait.
    for_trait: bool,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn comment(&mut self, what: &str, span: Span) {
        let line = span.start().line;
        if !explained(&self.source.lines, line) && !explained(&self.source.lines, self.statement) {
            let what = format!("{what} without a SAFETY comment right above");
            self.findings.push(Finding::new(&self.source.path, line, what));
        }
    }

    fn section(&mut self, what: &str, attrs: &[Attribute], span: Span) {
        let says = |attr: &Attribute| attr.path().is_ident("doc") && source_text(attr).contains("# Safety");
        if !attrs.iter().any(says) {
            let what = format!("{what} without a '# Safety' section");
            self.findings.push(Finding::new(&self.source.path, span.start().line, what));
        }
    }

    fn function(&mut self, attrs: &[Attribute], sig: &Signature) {
        if matches!(sig.safety, Safety::Unsafe(_)) && !self.for_trait {
            self.section(&format!("unsafe fn {}", sig.ident), attrs, sig.span());
        }
    }

    /// Runs `inner` as part of the statement that starts at `span`.
    fn within(&mut self, span: Span, inner: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.statement, span.start().line);
        inner(self);
        self.statement = outer;
    }
}

fn source_text(attr: &Attribute) -> String {
    use quote::ToTokens;
    attr.meta.to_token_stream().to_string()
}

/// Whether the comment that ends above `line` (or on it) says SAFETY;
/// attributes may stand between.
fn explained(lines: &[String], line: usize) -> bool {
    let above = lines[..line.saturating_sub(1)].iter().rev().map(|text| text.trim_start());
    let mut comment = above.take_while(|text| text.starts_with("//") || text.starts_with("#["));
    comment.any(|text| text.starts_with("// SAFETY:"))
}

impl<'a> Visit<'a> for Look<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        self.within(stmt.span(), |look| visit::visit_stmt(look, stmt));
    }

    fn visit_item(&mut self, item: &'a syn::Item) {
        self.within(item.span(), |look| visit::visit_item(look, item));
    }

    fn visit_arm(&mut self, arm: &'a Arm) {
        self.within(arm.span(), |look| visit::visit_arm(look, arm));
    }

    fn visit_expr_unsafe(&mut self, block: &'a ExprUnsafe) {
        self.comment("an unsafe block", block.span());
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if let Some(word) = &item.unsafety {
            self.comment("an unsafe impl", word.span());
        }
        let outer = std::mem::replace(&mut self.for_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.for_trait = outer;
    }

    fn visit_item_foreign_mod(&mut self, item: &'a ItemForeignMod) {
        self.comment("an unsafe extern", item.abi.span());
    }

    fn visit_item_trait(&mut self, item: &'a ItemTrait) {
        if item.unsafety.is_some() {
            self.section(&format!("unsafe trait {}", item.ident), &item.attrs, item.ident.span());
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_fn(&mut self, f: &'a ItemFn) {
        let outer = std::mem::replace(&mut self.for_trait, false);
        self.function(&f.attrs, &f.sig);
        visit::visit_item_fn(self, f);
        self.for_trait = outer;
    }

    fn visit_impl_item_fn(&mut self, f: &'a ImplItemFn) {
        self.function(&f.attrs, &f.sig);
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'a TraitItemFn) {
        self.function(&f.attrs, &f.sig);
        visit::visit_trait_item_fn(self, f);
    }

    /// The tree ends at a macro: blocks in it are found by their tokens.
    fn visit_macro(&mut self, mac: &'a Macro) {
        each_group(mac.tokens.clone(), &mut |tokens| {
            for pair in tokens.windows(2) {
                if let [TokenTree::Ident(word), TokenTree::Group(group)] = pair
                    && word == "unsafe"
                    && group.delimiter() == Delimiter::Brace
                {
                    self.comment("an unsafe block", word.span());
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let findings = check(&Tree::of(&[("a/lib.rs", text)]));
        findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    const BLOCK: &str = "an unsafe block without a SAFETY comment right above";

    #[test]
    fn a_block_says_why_it_is_right() {
        assert_eq!(said("fn f() {\n    unsafe { g() }\n}"), [format!("a/lib.rs:2: {BLOCK}")]);
        assert_eq!(said("fn f() {\n    // SAFETY: M2\n    // and more.\n    unsafe { g() }\n}"), [""; 0]);
    }

    #[test]
    fn the_comment_may_stand_above_the_statement_or_the_arm() {
        assert_eq!(said("fn f() {\n// SAFETY: M2\nlet x = h(\n1,\nunsafe { g() },\n);\n}"), [""; 0]);
        assert_eq!(said("fn f() {\nmatch x {\n// SAFETY: M2\n1 =>\nunsafe { g() },\n_ => 2 }\n}"), [""; 0]);
    }

    #[test]
    fn a_comment_elsewhere_does_not_count() {
        assert_eq!(said("fn f() {\n// SAFETY: M2\n\nunsafe { g() }\n}"), [format!("a/lib.rs:4: {BLOCK}")]);
        assert_eq!(said("fn f() {\n// SAFETY: M2\nh();\nunsafe { g() }\n}"), [format!("a/lib.rs:4: {BLOCK}")]);
        assert_eq!(said("// SAFETY: M2\nfn f() {\nunsafe { g() }\n}"), [format!("a/lib.rs:3: {BLOCK}")]);
    }

    #[test]
    fn a_block_in_a_macro_is_seen() {
        assert_eq!(said("fn f() {\nassert!(\nunsafe { g() });\n}"), [format!("a/lib.rs:3: {BLOCK}")]);
        assert_eq!(said("fn f() {\n// SAFETY: M2\nassert!(unsafe { g() });\n}"), [""; 0]);
    }

    #[test]
    fn an_unsafe_impl_says_why_it_is_right() {
        assert_eq!(said("unsafe impl A for B {}"), ["a/lib.rs:1: an unsafe impl without a SAFETY comment right above"]);
        assert_eq!(said("/// Doc.\n// SAFETY: M2\n#[allow(x)]\nunsafe impl A for B {}"), [""; 0]);
    }

    #[test]
    fn an_unsafe_function_tells_its_contract() {
        assert_eq!(said("/// Doc.\nunsafe fn f() {}"), ["a/lib.rs:2: unsafe fn f without a '# Safety' section"]);
        assert_eq!(said("/// # Safety\n/// M2\nunsafe fn f() {}"), [""; 0]);
        assert_eq!(said("impl A { unsafe fn f() {} }"), ["a/lib.rs:1: unsafe fn f without a '# Safety' section"]);
    }

    #[test]
    fn the_contract_of_a_method_is_told_by_its_trait() {
        assert_eq!(said("trait T { unsafe fn f(); }"), ["a/lib.rs:1: unsafe fn f without a '# Safety' section"]);
        assert_eq!(said("impl T for A { unsafe fn f() {} }"), [""; 0]);
        assert_eq!(said("unsafe trait T {}"), ["a/lib.rs:1: unsafe trait T without a '# Safety' section"]);
    }
}
