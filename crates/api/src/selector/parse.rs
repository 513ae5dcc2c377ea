use std::collections::BTreeSet;

use super::{
    expr::Expr,
    token::{SelectorError, Token, Tokens},
};

/// Parentheses deeper than this are refused, so that no selector can exhaust the stack. Calico's length limit of
/// 1024 characters leaves room for about this many that mean anything.
const MAX_DEPTH: usize = 128;

pub(super) fn parse(text: &str) -> Result<Expr, SelectorError> {
    let mut parser = Parser { tokens: Tokens::new(text), next: Token::End, at: 0 };
    parser.advance()?;
    if parser.next == Token::End {
        return Ok(Expr::All);
    }
    let expr = parser.or(0)?;
    if parser.next != Token::End {
        return Err(parser.unexpected("&&, || or the end"));
    }
    Ok(expr)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    next: Token<'a>,
    /// Byte offset of `next`.
    at: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>, SelectorError> {
        let (next, at) = self.tokens.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        self.tokens.error_at(self.at, format!("{expected} is expected here, not {}", self.next.describe()))
    }

    fn or(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        let mut operands = vec![self.and(depth)?];
        while self.next == Token::Or {
            self.advance()?;
            operands.push(self.and(depth)?);
        }
        Ok(if operands.len() == 1 { operands.swap_remove(0) } else { Expr::Or(operands) })
    }

    fn and(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        let mut operands = vec![self.unary(depth)?];
        while self.next == Token::And {
            self.advance()?;
            operands.push(self.unary(depth)?);
        }
        Ok(if operands.len() == 1 { operands.swap_remove(0) } else { Expr::And(operands) })
    }

    fn unary(&mut self, depth: usize) -> Result<Expr, SelectorError> {
        let mut negated = false;
        while self.next == Token::Not {
            self.advance()?;
            negated = !negated;
        }
        let expr = match self.next {
            Token::ParenOpen => {
                if depth == MAX_DEPTH {
                    return Err(self
                        .tokens
                        .error_at(self.at, format!("more than {MAX_DEPTH} nested parentheses")));
                }
                self.advance()?;
                let inner = self.or(depth + 1)?;
                if self.next != Token::ParenClose {
                    return Err(self.unexpected("&&, || or )"));
                }
                self.advance()?;
                inner
            }
            Token::All => self.constant(Expr::All)?,
            Token::Global => self.constant(Expr::Global)?,
            Token::Has(label) => self.constant(Expr::Has(label.to_owned()))?,
            Token::Label(label) => self.comparison(label)?,
            _ => return Err(self.unexpected("a label, has(), all(), ! or (")),
        };
        Ok(if negated { expr.negated() } else { expr })
    }

    fn constant(&mut self, expr: Expr) -> Result<Expr, SelectorError> {
        self.advance()?;
        Ok(expr)
    }

    fn comparison(&mut self, label: &str) -> Result<Expr, SelectorError> {
        self.advance()?;
        let make: fn(String, String) -> Expr = match self.next {
            Token::Eq => Expr::Eq,
            Token::Ne => Expr::Ne,
            Token::Contains => Expr::Contains,
            Token::StartsWith => Expr::StartsWith,
            Token::EndsWith => Expr::EndsWith,
            Token::In => return Ok(Expr::In(label.to_owned(), self.set()?)),
            Token::NotIn => return Ok(Expr::NotIn(label.to_owned(), self.set()?)),
            _ => {
                return Err(
                    self.unexpected("an operator (==, !=, in, not in, contains, starts with, ends with)")
                );
            }
        };
        self.advance()?;
        let Token::Text(value) = self.next else { return Err(self.unexpected("a quoted string")) };
        self.advance()?;
        Ok(make(label.to_owned(), value.to_owned()))
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.advance()?;
        if self.next != Token::BraceOpen {
            return Err(self.unexpected("{"));
        }
        self.advance()?;
        let mut values = BTreeSet::new();
        while let Token::Text(value) = self.next {
            values.insert(value.to_owned());
            self.advance()?;
            if self.next != Token::Comma {
                break;
            }
            // Calico takes a comma before the closing brace too.
            self.advance()?;
        }
        if self.next != Token::BraceClose {
            return Err(self.unexpected(if values.is_empty() {
                "a quoted string or }"
            } else {
                "a comma or }"
            }));
        }
        self.advance()?;
        Ok(values)
    }
}
