//! Words of the language. Keywords depend on the place: an operator only follows a label, `has(`, `all(` and
//! `global(` only stand where a term begins, so labels may be called `in` or `contains`.

/// Why a selector doesn't parse, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct SelectorError {
    /// Character in the selector, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Label(&'a str),
    Text(&'a str),
    Has(&'a str),
    All,
    Global,
    Eq,
    Ne,
    Contains,
    StartsWith,
    EndsWith,
    In,
    NotIn,
    Not,
    And,
    Or,
    ParenOpen,
    ParenClose,
    BraceOpen,
    BraceClose,
    Comma,
    End,
}

impl Token<'_> {
    pub(super) fn describe(self) -> String {
        match self {
            Self::Label(name) => format!("{name:?}"),
            Self::Text(text) => format!("the string {text:?}"),
            Self::Has(name) => format!("has({name})"),
            Self::All => "all()".to_owned(),
            Self::Global => "global()".to_owned(),
            Self::Eq => "==".to_owned(),
            Self::Ne => "!=".to_owned(),
            Self::Contains => "contains".to_owned(),
            Self::StartsWith => "starts with".to_owned(),
            Self::EndsWith => "ends with".to_owned(),
            Self::In => "in".to_owned(),
            Self::NotIn => "not in".to_owned(),
            Self::Not => "!".to_owned(),
            Self::And => "&&".to_owned(),
            Self::Or => "||".to_owned(),
            Self::ParenOpen => "(".to_owned(),
            Self::ParenClose => ")".to_owned(),
            Self::BraceOpen => "{".to_owned(),
            Self::BraceClose => "}".to_owned(),
            Self::Comma => ",".to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longest label name (`LabelKeyMatcher`).
const MAX_LABEL: usize = 512;

pub(super) struct Tokens<'a> {
    text: &'a str,
    /// Byte offset of the rest.
    offset: usize,
    after_label: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, offset: 0, after_label: false }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or("")
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.offset += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let fits = self.rest().starts_with(prefix);
        if fits {
            self.offset += prefix.len();
        }
        fits
    }

    /// Column (in characters, from 1) of a byte offset.
    fn error(&self, offset: usize, message: impl Into<String>) -> SelectorError {
        let column = self.text.get(..offset).unwrap_or(self.text).chars().count() + 1;
        SelectorError { column, message: message.into() }
    }

    pub(super) fn error_at(&self, offset: usize, message: impl Into<String>) -> SelectorError {
        self.error(offset, message)
    }

    fn label(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')))
            .unwrap_or(rest.len());
        self.offset += end;
        rest.get(..end).filter(|label| !label.is_empty())
    }

    /// The next word and the byte offset where it begins.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), SelectorError> {
        self.skip_blanks();
        let start = self.offset;
        let after_label = std::mem::replace(&mut self.after_label, false);
        let Some(first) = self.rest().chars().next() else { return Ok((Token::End, start)) };
        let fixed = [
            ("(", Token::ParenOpen),
            (")", Token::ParenClose),
            ("{", Token::BraceOpen),
            ("}", Token::BraceClose),
            (",", Token::Comma),
            ("==", Token::Eq),
            ("!=", Token::Ne),
            ("!", Token::Not),
            ("&&", Token::And),
            ("||", Token::Or),
        ];
        for (text, token) in fixed {
            if self.eat(text) {
                return Ok((token, start));
            }
        }
        match first {
            '"' | '\'' => {
                let inner = self.rest().get(1..).unwrap_or("");
                let Some(end) = inner.find(first) else {
                    return Err(self.error(start, format!("this string has no closing {first}")));
                };
                self.offset += end + 2;
                return Ok((Token::Text(inner.get(..end).unwrap_or("")), start));
            }
            '=' => return Err(self.error(start, "a single = means nothing: write ==")),
            '&' => return Err(self.error(start, "a single & means nothing: write &&")),
            '|' => return Err(self.error(start, "a single | means nothing: write ||")),
            _ => {}
        }
        let token = if after_label { self.operator(start)? } else { self.term(start)? };
        self.after_label = matches!(token, Token::Label(_));
        Ok((token, start))
    }

    fn operator(&mut self, start: usize) -> Result<Token<'a>, SelectorError> {
        if self.eat("contains") {
            return Ok(Token::Contains);
        }
        for (word, second, token) in [
            ("starts", "with", Token::StartsWith),
            ("ends", "with", Token::EndsWith),
            ("not", "in", Token::NotIn),
        ] {
            if self.eat(word) {
                self.skip_blanks();
                if self.eat(second) {
                    return Ok(token);
                }
                return Err(self.error(start, format!("{word:?} must be followed by {second:?}")));
            }
        }
        if self.eat("in") {
            return Ok(Token::In);
        }
        Err(self.error(
            start,
            "an operator must follow the label: ==, !=, in, not in, contains, starts with or ends with",
        ))
    }

    fn term(&mut self, start: usize) -> Result<Token<'a>, SelectorError> {
        for (word, token) in [("all(", Token::All), ("global(", Token::Global)] {
            if self.eat(word) {
                self.skip_blanks();
                return if self.eat(")") {
                    Ok(token)
                } else {
                    Err(self.error(self.offset, format!("{word}) takes nothing in its parentheses")))
                };
            }
        }
        if self.eat("has(") {
            self.skip_blanks();
            let at = self.offset;
            let label = self.label().ok_or_else(|| self.error(at, "has() needs a label name"))?;
            self.check_length(label, at)?;
            self.skip_blanks();
            return if self.eat(")") {
                Ok(Token::Has(label))
            } else {
                Err(self.error(self.offset, "has( is not closed with )"))
            };
        }
        let label = self.label().ok_or_else(|| {
            self.error(start, "unexpected character: a label has letters, digits, '_', '.', '/' and '-'")
        })?;
        self.check_length(label, start)?;
        Ok(Token::Label(label))
    }

    fn check_length(&self, label: &str, at: usize) -> Result<(), SelectorError> {
        if label.len() > MAX_LABEL {
            return Err(self.error(at, format!("a label name has at most {MAX_LABEL} characters")));
        }
        Ok(())
    }
}
