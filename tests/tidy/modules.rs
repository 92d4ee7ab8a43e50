//! The modules of `src`: what each defines and imports, and to which file a path leads.
//!
//! Names are resolved as the compiler does it, as far as files are concerned: `self`, `super` and `crate`, children,
//! imports with their aliases, globs, and re-exports through any number of modules. Test code is left out.

use crate::File;
use crate::source::{Named, Rust, Token, end_of_attribute, end_of_item, is_word, item_kind, module_path};
use std::collections::{BTreeMap, HashMap};

/// All modules below `src/lib.rs` and those of the binary, `src/main.rs`.
pub struct Modules<'f> {
    pub files: Vec<Source<'f>>,
    modules: Vec<Module>,
    by_path: HashMap<Vec<String>, usize>,
}

/// A file that is no test.
pub struct Source<'f> {
    pub path: &'f str,
    pub rust: &'f Rust,
    /// Its module, and each inline module with the tokens inside it; the last that has a token is the innermost.
    modules: Vec<(usize, std::ops::Range<usize>)>,
    pub types: Vec<TypeItem>,
    pub impls: Vec<Impl>,
    /// Whether it defines anything, beside declaring modules and importing.
    pub has_code: bool,
}

/// A struct, an enum or a trait.
pub struct TypeItem {
    pub name: String,
    pub line: usize,
    pub is_struct: bool,
    /// The first line of a field that is not private.
    pub open_field: Option<usize>,
}

/// `impl X { … }`, not of a trait.
pub struct Impl {
    pub line: usize,
    /// As written, without generics.
    pub of: Vec<String>,
    pub takes_self: bool,
    index: usize,
}

struct Module {
    path: Vec<String>,
    file: usize,
    /// Items that it defines itself.
    items: BTreeMap<String, usize>,
    imports: Vec<Import>,
    /// A macro may define anything.
    has_macro: bool,
}

struct Import {
    /// `*` for a glob.
    name: String,
    segments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    Module(usize),
    /// The file that defines the item.
    Item(usize),
}

impl<'f> Modules<'f> {
    pub fn read(files: &'f [File]) -> Modules<'f> {
        let mut all = Modules { files: Vec::new(), modules: Vec::new(), by_path: HashMap::new() };
        let tests = test_modules(files);
        for file in files.iter().filter(|file| file.path.starts_with("src/")) {
            let path = module_path(&file.path);
            let is_test = path.iter().any(|part| part == "tests") || tests.iter().any(|test| path.starts_with(test));
            if let (false, Some(rust)) = (is_test, &file.rust) {
                all.read_file(&file.path, path, rust);
            }
        }
        all.add_missing_parents();
        all
    }

    /// A folder is a module, although planted trees have no `mod.rs` in it.
    fn add_missing_parents(&mut self) {
        let paths: Vec<Vec<String>> = self.by_path.keys().cloned().collect();
        for path in paths {
            for parent in (0..path.len()).map(|len| &path[..len]) {
                if !self.by_path.contains_key(parent) {
                    self.add_module(parent.to_vec(), usize::MAX);
                }
            }
        }
    }

    fn read_file(&mut self, path: &'f str, module: Vec<String>, rust: &'f Rust) {
        let root = self.add_module(module, self.files.len());
        let mut source = Source {
            path,
            rust,
            modules: vec![(root, 0..rust.tokens.len())],
            types: Vec::new(),
            impls: Vec::new(),
            has_code: false,
        };
        self.read_items(&mut source, root, 0, rust.tokens.len());
        self.files.push(source);
    }

    fn add_module(&mut self, path: Vec<String>, file: usize) -> usize {
        self.by_path.insert(path.clone(), self.modules.len());
        self.modules.push(Module { path, file, items: BTreeMap::new(), imports: Vec::new(), has_macro: false });
        self.modules.len() - 1
    }

    fn read_items(&mut self, source: &mut Source<'f>, module: usize, mut index: usize, end: usize) {
        let tokens = &source.rust.tokens;
        while index < end {
            let next = end_of_item(tokens, index);
            while tokens.get(index).is_some_and(|token| token.text == "#") {
                index = end_of_attribute(tokens, index);
            }
            if index >= end {
                return;
            }
            if !tokens[index].in_test {
                self.read_item(source, module, index, next);
            }
            index = next.max(index + 1);
        }
    }

    fn read_item(&mut self, source: &mut Source<'f>, module: usize, index: usize, next: usize) {
        let tokens = &source.rust.tokens;
        let text = |index: usize| tokens.get(index).map_or("", |token: &Token| &*token.text);
        let Some(kind) = item_kind(tokens, index) else {
            self.modules[module].has_macro |= text(index + 1) == "!";
            source.has_code |= text(index + 1) == "!";
            return;
        };
        let keyword = (index..next).find(|index| text(*index) == kind).expect("its kind is one of its words");
        match kind {
            "mod" if text(keyword + 2) == "{" => {
                let mut path = self.modules[module].path.clone();
                path.push(text(keyword + 1).into());
                let inner = self.add_module(path, self.modules[module].file);
                source.modules.push((inner, keyword + 3..next));
                self.read_items(source, inner, keyword + 3, next - 1);
            }
            "mod" | "extern" => {}
            "use" => read_use(tokens, keyword + 1, &[], &mut self.modules[module].imports),
            "impl" => {
                source.has_code = true;
                source.impls.extend(read_impl(tokens, keyword, next));
            }
            _ => {
                source.has_code = true;
                let skip = usize::from(matches!(text(keyword + 1), "mut" | "!"));
                let name = text(keyword + 1 + skip);
                self.modules[module].items.insert(name.into(), index);
                if matches!(kind, "struct" | "enum" | "trait") {
                    let (is_struct, line) = (kind == "struct", tokens[keyword].line);
                    let fields = keyword + 2..next;
                    let open =
                        fields.clone().find(|index| is_struct && text(*index) == "pub" && !tokens[*index].in_test);
                    let open_field = open.map(|index| tokens[index].line);
                    source.types.push(TypeItem { name: name.into(), line, is_struct, open_field });
                }
            }
        }
    }

    /// Where a path in `file` leads, if it stays within `src`.
    pub fn resolve(&self, file: usize, named: &Named) -> Option<Target> {
        self.resolve_in(self.module_at(file, named.index), &named.segments, DEPTH_MAX)
    }

    /// The file that defines the type of an inherent `impl`.
    pub fn owner_of(&self, file: usize, block: &Impl) -> Option<usize> {
        match self.resolve_in(self.module_at(file, block.index), &block.of, DEPTH_MAX)? {
            Target::Item(owner) => Some(owner),
            Target::Module(_) => None,
        }
    }

    fn module_at(&self, file: usize, index: usize) -> usize {
        let around = self.files[file].modules.iter().rfind(|(_, tokens)| tokens.contains(&index));
        around.expect("the file's module has all of its tokens").0
    }

    fn resolve_in(&self, from: usize, segments: &[String], depth: usize) -> Option<Target> {
        let depth = depth.checked_sub(1)?;
        let is_binary = self.files.get(self.modules[from].file).is_some_and(|file| file.path == "src/main.rs");
        let mut module = from;
        let mut rest = segments;
        match segments.first()?.as_str() {
            "crate" if !is_binary => (module, rest) = (*self.by_path.get(&[][..])?, &rest[1..]),
            "rainbow" if is_binary => (module, rest) = (*self.by_path.get(&[][..])?, &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    let (_, parent) = self.modules[module].path.split_last()?;
                    (module, rest) = (*self.by_path.get(parent)?, &rest[1..]);
                }
            }
            _ => {}
        }
        while let Some((name, after)) = rest.split_first() {
            if name == "*" {
                break;
            }
            match self.look_up(module, name, after.is_empty(), depth)? {
                Target::Module(found) => (module, rest) = (found, after),
                item => return Some(item),
            }
        }
        Some(Target::Module(module))
    }

    /// A name in a module. A module and a function may have one name: the last word of a path means the item.
    fn look_up(&self, module: usize, name: &str, is_last: bool, depth: usize) -> Option<Target> {
        let here = &self.modules[module];
        let child = || {
            let path: Vec<String> = here.path.iter().cloned().chain([name.to_owned()]).collect();
            self.by_path.get(&path).copied().map(Target::Module)
        };
        let item = || here.items.contains_key(name).then_some(Target::Item(here.file));
        let own = if is_last { item().or_else(child) } else { child().or_else(item) };
        let imported = || {
            let named = here.imports.iter().filter(|import| import.name == name);
            named.filter_map(|import| self.resolve_in(module, &import.segments, depth)).next()
        };
        let globbed = || {
            let globs = here.imports.iter().filter(|import| import.name == "*");
            let modules = globs.filter_map(|glob| self.resolve_in(module, &glob.segments, depth));
            let within = |target| match target {
                Target::Module(other) if other != module => self.look_up(other, name, is_last, depth.checked_sub(1)?),
                _ => None,
            };
            modules.filter_map(within).next()
        };
        let from_macro = || (here.has_macro && name.starts_with(char::is_uppercase)).then_some(Target::Item(here.file));
        own.or_else(imported).or_else(globbed).or_else(from_macro)
    }
}

/// Modules that are declared for tests only.
fn test_modules(files: &[File]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        let Some(rust) = &file.rust else { continue };
        for three in rust.tokens.windows(3).filter(|three| three[0].text == "mod" && three[2].text == ";") {
            if three[0].in_test {
                let mut path = module_path(&file.path);
                path.push(three[1].text.clone());
                found.push(path);
            }
        }
    }
    found
}

/// The branches of a `use` tree at `index`; returns where it ended.
fn read_use(tokens: &[Token], mut index: usize, prefix: &[String], imports: &mut Vec<Import>) {
    let text = |index: usize| tokens.get(index).map_or("", |token: &Token| &*token.text);
    let mut segments = prefix.to_vec();
    loop {
        match text(index) {
            "::" => index += 1,
            "{" => {
                index += 1;
                while !matches!(text(index), "}" | "") {
                    let end = end_of_branch(tokens, index);
                    read_use(tokens, index, &segments, imports);
                    index = end + usize::from(text(end) == ",");
                }
                return;
            }
            word if is_word(word) || word == "*" => {
                if word != "self" || segments.is_empty() {
                    segments.push(word.into());
                }
                index += 1;
                if text(index) != "::" {
                    break;
                }
            }
            _ => return,
        }
    }
    let name = if text(index) == "as" { text(index + 1) } else { segments.last().map_or("", String::as_str) };
    imports.push(Import { name: name.into(), segments });
}

/// The `,` or `}` that ends a branch of a `use` group.
fn end_of_branch(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        match &*token.text {
            "{" => depth += 1,
            "}" | "," | ";" if depth == 0 => return index,
            "}" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// An inherent `impl`; nothing for one of a trait.
fn read_impl(tokens: &[Token], keyword: usize, next: usize) -> Option<Impl> {
    let text = |index: usize| tokens.get(index).map_or("", |token: &Token| &*token.text);
    let mut index = keyword + 1;
    if text(index) == "<" {
        index = end_of_generics(tokens, index);
    }
    let body = (index..next).find(|index| text(*index) == "{")?;
    let is_trait = (index..body).any(|index| text(index) == "for" && text(index + 1) != "<");
    if is_trait || !is_word(text(index)) {
        return None;
    }
    let mut of = vec![text(index).to_owned()];
    let start = index;
    while text(index + 1) == "::" && is_word(text(index + 2)) {
        index += 2;
        of.push(text(index).into());
    }
    let takes_self = (body..next).any(|index| text(index) == "fn" && has_receiver(tokens, index));
    Some(Impl { line: tokens[keyword].line, of, takes_self, index: start })
}

fn has_receiver(tokens: &[Token], function: usize) -> bool {
    let text = |index: usize| tokens.get(index).map_or("", |token: &Token| &*token.text);
    let mut index = function + 2;
    if text(index) == "<" {
        index = end_of_generics(tokens, index);
    }
    // `(&'a mut self`
    index += 1;
    while let "&" | "'" | "mut" = text(index) {
        index += if text(index) == "'" { 2 } else { 1 };
    }
    text(index) == "self"
}

/// Past the `>` that closes the `<` at `from`.
fn end_of_generics(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for index in from..tokens.len() {
        match &*tokens[index].text {
            "<" => depth += 1,
            ">" if tokens[index - 1].text == "-" => {}
            ">" if depth == 1 => return index + 1,
            ">" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Re-exports of re-exports; a circle of them leads nowhere.
const DEPTH_MAX: usize = 16;
