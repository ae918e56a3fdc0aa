//! The syntax of nginx's configuration: directives that end with a semicolon or have a block.

/// The deepest nesting of blocks.
const MAX_DEPTH: usize = 32;

/// A directive.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) line: usize,
    pub(super) block: Option<Vec<Directive>>,
}

/// A fault of the syntax, with its line.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl Directive {
    /// Returns the first argument.
    pub(super) fn arg(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// Returns the directives of its block.
    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Reads the directives of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Directive>, Fault> {
    let mut parser = Parser {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
    };
    parser.directives(0, 1)
}

enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    fn fault<T>(&self, problem: impl Into<String>) -> Result<T, Fault> {
        let (line, problem) = (self.line, problem.into());
        Err(Fault { line, problem })
    }

    /// Reads directives up to the end of their block, which began at a line.
    fn directives(&mut self, depth: usize, began: usize) -> Result<Vec<Directive>, Fault> {
        if depth > MAX_DEPTH {
            return self.fault(format!("blocks are nested deeper than {MAX_DEPTH}"));
        }
        let mut directives = Vec::new();
        loop {
            let (name, line) = match self.token()? {
                Token::Word(name) => (name, self.line),
                Token::End if depth == 0 => return Ok(directives),
                Token::End => {
                    return self.fault(format!("the block that began in line {began} has no }}"));
                }
                Token::Close if depth > 0 => return Ok(directives),
                Token::Close => return self.fault("a } closes no block"),
                Token::Open => return self.fault("a block has no name"),
                Token::Semicolon => return self.fault("a semicolon ends no directive"),
            };
            let mut args = Vec::new();
            let block = loop {
                match self.token()? {
                    Token::Word(word) => args.push(word),
                    Token::Semicolon => break None,
                    // The code of another language has braces of its own.
                    Token::Open if name.ends_with("_by_lua_block") => {
                        self.skip_code()?;
                        break Some(Vec::new());
                    }
                    Token::Open => break Some(self.directives(depth + 1, line)?),
                    Token::Close | Token::End => {
                        return Err(Fault {
                            line,
                            problem: format!("`{name}` has no semicolon at its end"),
                        });
                    }
                }
            };
            directives.push(Directive {
                name,
                args,
                line,
                block,
            });
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn token(&mut self) -> Result<Token, Fault> {
        loop {
            let Some(next) = self.rest.chars().next() else {
                return Ok(Token::End);
            };
            match next {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                next if next.is_whitespace() => {
                    self.next();
                }
                ';' | '{' | '}' => {
                    self.next();
                    return Ok(match next {
                        ';' => Token::Semicolon,
                        '{' => Token::Open,
                        _ => Token::Close,
                    });
                }
                '"' | '\'' => return self.quoted(next).map(Token::Word),
                _ => return Ok(Token::Word(self.word())),
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let began = self.line;
        self.next();
        let mut word = String::new();
        loop {
            match self.next() {
                Some(next) if next == quote => return Ok(word),
                Some('\\') => word.extend(self.escaped()),
                Some(next) => word.push(next),
                None => {
                    return Err(Fault {
                        line: began,
                        problem: format!("a text has no {quote} at its end"),
                    });
                }
            }
        }
    }

    /// Reads what follows a backslash. Before other characters it stands for itself.
    fn escaped(&mut self) -> Vec<char> {
        match self.next() {
            Some(next @ ('"' | '\'' | '\\' | ';' | '{' | '}' | ' ')) => vec![next],
            Some('t') => vec!['\t'],
            Some('r') => vec!['\r'],
            Some('n') => vec!['\n'],
            Some(other) => vec!['\\', other],
            None => vec!['\\'],
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(next) = self.rest.chars().next() {
            if next.is_whitespace() || matches!(next, ';' | '}') {
                break;
            }
            if next == '{' && !word.ends_with('$') {
                break;
            }
            self.next();
            match next {
                '\\' => word.extend(self.escaped()),
                // A variable: ${name}.
                '{' => {
                    word.push('{');
                    while let Some(next) = self.next() {
                        word.push(next);
                        if next == '}' {
                            break;
                        }
                    }
                }
                _ => word.push(next),
            }
        }
        word
    }

    fn skip_code(&mut self) -> Result<(), Fault> {
        let began = self.line;
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                Some(_) => {}
                None => {
                    return Err(Fault {
                        line: began,
                        problem: "the code that begins here has no } at its end".to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}
