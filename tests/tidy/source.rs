//! A source file, prepared for the rules: without comments and string contents, cut into functions,
//! and with every path that it names resolved to a path from the crate's root.

/// A file of the project.
pub(crate) struct Source {
    /// From the root of the project, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with every comment and the contents of every string blanked out. As long as
    /// the text, with the same line ends, so that a position means the same in both.
    pub(crate) code: String,
}

/// A path that the code names, such as `crate::wire::Reader`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Where.
    pub(crate) at: usize,
    /// From the root of the crate, without the root.
    pub(crate) segments: Vec<String>,
}

/// A function: where it begins and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The line of a position, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// The top module of a file of the library: `proto` for `src/proto/rtt.rs`.
    pub(crate) fn top_module(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split('/').next().map(|name| name.trim_end_matches(".rs"))
    }

    /// The module path of a file of the library: `proto`, `rtt`.
    fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix("src/").unwrap_or_default();
        let mut module: Vec<_> =
            inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        module
    }

    /// Positions at which `word` stands as a whole word in the code.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    /// Every path that begins with `root::` (`crate` or the name of the crate).
    pub(crate) fn paths_from(&self, root: &str) -> Vec<Named> {
        let starts = self.words(root).filter(|at| !self.code[..*at].ends_with("::"));
        starts.flat_map(|at| self.expand(at, at + root.len(), Vec::new())).collect()
    }

    /// Every path of the library's own, also those that climb with `super::`.
    pub(crate) fn own_paths(&self) -> Vec<Named> {
        let mut all = self.paths_from("crate");
        let module = self.module();
        for at in self.words("super").filter(|at| !self.code[..*at].ends_with("::")) {
            let mut base = module.clone();
            base.extend(self.inline_modules(at));
            let mut end = at;
            while self.code[end..].starts_with("super") {
                base.pop();
                end += "super".len();
                if self.code[end..].starts_with("::super") {
                    end += "::".len();
                }
            }
            all.extend(self.expand(at, end, base));
        }
        all
    }

    /// What a `mod.rs` imports of its own files, as in `use space::Received`, without what it
    /// publishes of them.
    pub(crate) fn child_imports(&self) -> Vec<Named> {
        let module = self.module();
        let mut all = Vec::new();
        for at in self.words("use") {
            let before = self.code[..at].trim_end();
            let from = at + "use".len();
            let start = from + self.code[from..].len() - self.code[from..].trim_start().len();
            let child: String = self.code[start..].chars().take_while(|c| is_word(*c)).collect();
            let is_import = before.is_empty() || before.ends_with([';', '}', '{', ']']);
            let is_root = ["crate", "super", "self", "std", "core"].contains(&child.as_str());
            if is_import && !is_root && self.words("mod").any(|m| self.declares(m, &child)) {
                let end = start + child.len();
                all.extend(self.expand(at, end, [&module[..], &[child]].concat()));
            }
        }
        all
    }

    /// True if the `mod` at a position declares the file `name`.
    fn declares(&self, at: usize, name: &str) -> bool {
        let rest = self.code[at + "mod".len()..].trim_start();
        rest.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(';'))
    }

    /// The paths that follow a root which ends at `end`; `base` is what the root stands for.
    fn expand(&self, at: usize, end: usize, base: Vec<String>) -> Vec<Named> {
        let mut paths = Vec::new();
        if self.code[end..].trim_start().starts_with("::") {
            let mut cursor = Cursor { rest: &self.code[end..] };
            cursor.leaves(base, &mut paths);
        }
        paths.into_iter().map(|segments| Named { at, segments }).collect()
    }

    /// The modules written within this file that are open at a position.
    fn inline_modules(&self, at: usize) -> Vec<String> {
        let mut open = Vec::new();
        for start in self.words("mod").take_while(|start| *start < at) {
            let rest = self.code[start + 3..].trim_start();
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let body = rest[name.len()..].trim_start();
            if body.starts_with('{') {
                let from = self.code.len() - body.len();
                if closing(&self.code, from).is_none_or(|end| at < end) {
                    open.push(name);
                }
            }
        }
        open
    }

    /// True in a module of unit tests, or of what they need, within a file.
    pub(crate) fn is_in_unit_test(&self, at: usize) -> bool {
        self.inline_modules(at).iter().any(|name| name == "tests" || name == "testing")
    }

    pub(crate) fn functions(&self) -> Vec<Function> {
        self.words("fn").filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let rest = self.code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        // `fn(u8)` is a type.
        if name.is_empty() {
            return None;
        }
        let open = self.body(at)?;
        let end = closing(&self.code, open)?;
        Some(Function { at, name, lines: self.line(end) - self.line(at) + 1 })
    }

    /// Where the body of the function at `at` begins; a declaration has none.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0;
        for (i, byte) in self.code.bytes().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b'{' if depth == 0 => return Some(i),
                b';' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }
}

/// Reads the tree of a path: `::a::{b, c::{d, self}, *}`.
struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn take(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let word: String = self.rest.chars().take_while(|c| is_word(*c)).collect();
        self.rest = &self.rest[word.len()..];
        word
    }

    fn leaves(&mut self, mut base: Vec<String>, out: &mut Vec<Vec<String>>) {
        while self.take("::") {
            if self.take("{") {
                return self.group(&base, out);
            }
            let word = self.word();
            // A glob, or generic arguments: the path ends here.
            if word.is_empty() {
                break;
            }
            base.push(word);
        }
        out.push(base);
    }

    fn group(&mut self, base: &[String], out: &mut Vec<Vec<String>>) {
        while !self.take("}") && !self.rest.is_empty() {
            let mut path = base.to_vec();
            let word = self.word();
            if word.is_empty() {
                // `*`, or something that is no path: step over it.
                let mut chars = self.rest.chars();
                chars.next();
                self.rest = chars.as_str();
            } else if word != "self" {
                path.push(word);
            }
            self.leaves(path, out);
            if self.take("as") {
                self.word();
            }
            self.take(",");
        }
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Positions at which `word` stands as a whole word in `text`.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Where the brace that opens at `open` closes.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// Replaces comments and the contents of strings and character literals by blanks.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = opaque(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// The end of the comment, string or character literal that begins at `at`; `at` if none does.
fn opaque(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && is_word(char::from(bytes[at - 1]));
    if rest.starts_with(b"//") {
        at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        at + block_comment(rest)
    } else if rest[0] == b'"' {
        at + quoted(rest, b'"')
    } else if rest[0] == b'r' && (!word_before || bytes[at - 1] == b'b') {
        at + raw_string(rest)
    } else if rest[0] == b'\'' {
        at + character(rest)
    } else {
        at
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`; 0 if it is none.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |found| body + found + end.len())
}

/// `'x'` and `'\n'`, but not the lifetime `'a`; 0 if it is none.
fn character(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => quoted(rest, b'\''),
        Some(first) => {
            // One character, of up to four bytes.
            let len = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if rest.get(1 + len) == Some(&b'\'') { len + 2 } else { 0 }
        }
        None => 0,
    }
}
