//! README, ARCHITECTURE and the guides name only what exists.
//!
//! Of what stands in back-ticks, outside of code blocks:
//! - a **path** (`vmalloc/src/area.rs`, `space/arena.rs`, `machines/sim/`) is a file or folder, or the end of one;
//! - **`Type::item`**, `module::item` is defined so, where the source defines the type or module; of other crates' the source uses both names;
//! - **`function()`** is a word of the source.

use super::Finding;
use super::tokens::each_group;
use super::tree::{Text, Tree};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};
use syn::{
    ImplItem, ItemEnum, ItemImpl, ItemMacro, ItemMod, ItemStruct, ItemTrait, ItemType, ItemUnion, TraitItem, Type,
};

const PAGES: [&str; 7] = [
    "ARCHITECTURE.md",
    "README.md",
    "cli/docs/figures.md",
    "guard/docs/guard.md",
    "machines/hosted/docs/process.md",
    "scullv/docs/scullv.md",
    "vmalloc/docs/kernel.md",
];
const ENDINGS: [&str; 6] = ["rs", "md", "toml", "sh", "gz", "yml"];

/// Names on these pages that are nowhere in the tree.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let pages: Vec<&Text> = tree.texts.iter().filter(|file| PAGES.contains(&&*file.path)).collect();
    if pages.is_empty() {
        return Vec::new();
    }
    let known = Known::of(tree);
    let mut findings = Vec::new();
    for page in pages {
        for (line, name) in quoted(&page.text) {
            if !known.knows(name) {
                findings.push(Finding::new(&page.path, line, format!("names `{name}`, which is not there")));
            }
        }
    }
    findings
}

/// What stands in single back-ticks, with its line.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|name| (at + 1, name)));
        }
    }
    found
}

/// What a page may name.
#[derive(Default)]
struct Known {
    /// Files and folders, each with a `/` in front.
    paths: BTreeSet<String>,
    /// Every identifier of the source.
    words: BTreeSet<String>,
    /// Identifiers in macros of whole items: they may become anything.
    made: BTreeSet<String>,
    /// What belongs to each type and module.
    members: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    fn of(tree: &Tree) -> Known {
        let mut known = Known::default();
        for file in &tree.texts {
            let slashes = file.path.match_indices('/').map(|(at, _)| at);
            known.paths.extend(slashes.chain([file.path.len()]).map(|end| format!("/{}", &file.path[..end])));
        }
        for source in &tree.sources {
            words(source.tokens.clone(), &mut known.words);
            let module = source.module.last().map_or("crate", String::as_str);
            known.add_items(module, &source.ast.items);
            known.visit_file(&source.ast);
        }
        known
    }

    /// All words of a module's items stand for its members: enough to see
    /// that a name is gone, and blind to nothing that macros make.
    fn add_items(&mut self, module: &str, items: &[syn::Item]) {
        let members = self.members.entry(module.to_owned()).or_default();
        items.iter().for_each(|item| words(item.to_token_stream(), members));
    }

    fn add(&mut self, owner: &syn::Ident, members: impl IntoIterator<Item = String>) {
        self.members.entry(owner.to_string()).or_default().extend(members);
    }

    fn knows(&self, name: &str) -> bool {
        let plain = without_generics(name);
        let plain = plain.strip_suffix("()").unwrap_or(&plain);
        if self.is_path(name) {
            return self.has_path(name);
        }
        let parts: Vec<&str> = plain.split("::").collect();
        if !parts.iter().all(|part| is_identifier(part)) {
            return true;
        }
        match parts[..] {
            [.., owner, member] => self.has_member(owner, member),
            [function] if plain.len() < name.len() && name.ends_with("()") => self.words.contains(function),
            _ => true,
        }
    }

    fn has_member(&self, owner: &str, member: &str) -> bool {
        match self.members.get(owner) {
            Some(members) => members.contains(member) || self.made.contains(member),
            None => {
                ["std", "core", "alloc"].contains(&owner) || (self.words.contains(owner) && self.words.contains(member))
            }
        }
    }

    /// Something with a `/`, or with one of our endings, that is not from the
    /// root of a file system.
    fn is_path(&self, name: &str) -> bool {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        let ending = name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && ENDINGS.contains(&end));
        let below = name.split_once('/').is_some_and(|(first, _)| self.paths.contains(&format!("/{first}")));
        plain && !name.starts_with('/') && (ending || below)
    }

    fn has_path(&self, name: &str) -> bool {
        let end = format!("/{}", name.trim_end_matches('/'));
        self.paths.iter().any(|path| path.ends_with(&end))
    }
}

impl<'a> Visit<'a> for Known {
    fn visit_item_macro(&mut self, item: &'a ItemMacro) {
        words(item.mac.tokens.clone(), &mut self.made);
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if let Some((_, items)) = &item.content {
            self.add_items(&item.ident.to_string(), items);
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_enum(&mut self, item: &'a ItemEnum) {
        self.add(&item.ident, item.variants.iter().map(|variant| variant.ident.to_string()));
    }

    fn visit_item_struct(&mut self, item: &'a ItemStruct) {
        self.add(&item.ident, item.fields.iter().filter_map(|field| Some(field.ident.as_ref()?.to_string())));
    }

    fn visit_item_union(&mut self, item: &'a ItemUnion) {
        self.add(&item.ident, item.fields.named.iter().filter_map(|field| Some(field.ident.as_ref()?.to_string())));
    }

    fn visit_item_type(&mut self, item: &'a ItemType) {
        self.add(&item.ident, []);
    }

    fn visit_item_trait(&mut self, item: &'a ItemTrait) {
        let members = item.items.iter().filter_map(|member| match member {
            TraitItem::Fn(f) => Some(f.sig.ident.to_string()),
            TraitItem::Const(c) => Some(c.ident.to_string()),
            TraitItem::Type(t) => Some(t.ident.to_string()),
            _ => None,
        });
        self.add(&item.ident, members);
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        let Type::Path(of) = &*item.self_ty else { return };
        let Some(owner) = of.path.segments.last() else { return };
        let members = item.items.iter().filter_map(|member| match member {
            ImplItem::Fn(f) => Some(f.sig.ident.to_string()),
            ImplItem::Const(c) => Some(c.ident.to_string()),
            ImplItem::Type(t) => Some(t.ident.to_string()),
            _ => None,
        });
        self.add(&owner.ident, members);
    }
}

fn words(tokens: TokenStream, into: &mut BTreeSet<String>) {
    each_group(tokens, &mut |tokens| {
        for token in tokens {
            if let TokenTree::Ident(word) = token {
                into.insert(word.to_string());
            }
        }
    });
}

/// `Vmalloc<M>::new` → `Vmalloc::new`
fn without_generics(name: &str) -> String {
    let mut depth = 0;
    let keep = |c: &char| {
        depth += i32::from(*c == '<');
        let outside = depth == 0;
        depth -= i32::from(*c == '>');
        outside
    };
    name.chars().filter(keep).collect()
}

fn is_identifier(part: &str) -> bool {
    let mut chars = part.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "
        mod area;
        pub struct Vmalloc<M> { machine: M }
        impl<M> Vmalloc<M> { pub fn alloc(&self) { libc::mmap() } }
        enum Placement { Classes }
        trait Machine { const MIRRORED: bool; fn pin(&self); }
        bitflags! { struct Gfp: u32 { const ATOMIC = 1; } }
        impl Gfp { fn zone() {} }";

    /// The names of a page that are not there.
    fn missing(page: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("ARCHITECTURE.md", page),
            ("vmalloc/src/lib.rs", LIB),
            ("vmalloc/src/area.rs", "pub fn parse() {}"),
        ]);
        let between = |what: String| what.split('`').nth(1).map(str::to_owned);
        check(&tree).into_iter().filter_map(|finding| between(finding.what)).collect()
    }

    #[test]
    fn a_path_is_a_file_or_a_folder_or_the_end_of_one() {
        assert_eq!(missing("`vmalloc/src/lib.rs` `src/area.rs` `area.rs` `vmalloc/src/` `vmalloc/src`"), [""; 0]);
        assert_eq!(
            missing("`vmalloc/src/gone.rs` `rea.rs` `vmalloc/gone`"),
            ["vmalloc/src/gone.rs", "rea.rs", "vmalloc/gone"]
        );
    }

    #[test]
    fn an_item_belongs_to_the_type_it_is_named_with() {
        assert_eq!(
            missing("`Vmalloc::alloc` `Vmalloc<M>::alloc()` `Placement::Classes` `Machine::pin` `Machine::MIRRORED`"),
            [""; 0]
        );
        assert_eq!(
            missing("`Vmalloc::pin` `Placement::Lowest` `Gone::alloc`"),
            ["Vmalloc::pin", "Placement::Lowest", "Gone::alloc"]
        );
    }

    #[test]
    fn an_item_belongs_to_the_module_it_is_named_with() {
        assert_eq!(missing("`area::parse` `crate::area::parse()` `libc::mmap` `core::mem`"), [""; 0]);
        assert_eq!(missing("`area::gone`"), ["area::gone"]);
    }

    #[test]
    fn a_macro_defines_what_it_spells() {
        assert_eq!(missing("`Gfp::ATOMIC` `Gfp::zone`"), [""; 0]);
        assert_eq!(missing("`Gfp::GONE`"), ["Gfp::GONE"]);
    }

    #[test]
    fn a_function_is_a_word_of_the_source() {
        assert_eq!(missing("`parse()` `mmap()`"), [""; 0]);
        assert_eq!(missing("`gone()`"), ["gone()"]);
    }

    #[test]
    fn the_rest_is_prose() {
        assert_eq!(missing("`cargo run -- replay` `/proc/vmallocinfo` `Ok(())` `--json` `x` `1/2`"), [""; 0]);
        assert_eq!(missing("```\n`gone()`\n```\n"), [""; 0]);
    }

    #[test]
    fn a_finding_has_its_line() {
        let tree = Tree::of(&[("README.md", "fine\n\nand `gone()`")]);
        assert_eq!(check(&tree), [Finding::new("README.md", 3, "names `gone()`, which is not there")]);
    }
}
