/**
 * A small interpreter of the Jinja that chat templates are written in; it depends on nothing and can be used alone.
 * {@link qlora4j.template.ChatTemplate} is the way in.
 *
 * <p>
 * A source goes through {@code Lexer}, {@code Parser} (on {@code ExpressionParser}) to {@code Stmt} and {@code Expr};
 * {@code Executor} carries statements out, {@code Interpreter} evaluates expressions over {@code Values}, with Python's
 * semantics in {@code Py, Ops, Num, Repr, Access} and the methods and formats beside them. {@code Session} holds what
 * one rendering may use.
 *
 * <p>
 * The reference is Jinja2 3.1.6 in its immutable sandbox as transformers sets it up, on Python 3. Not provided, and an
 * error where used: the filters {@code pprint, random, urlize, wordwrap}; {@code lipsum, self, super}; bytes; the tags
 * that need other templates ({@code extends, include, import, from}); autoescape turned on. Beyond the reference there
 * are {@link qlora4j.template.Limits}. A generation block inside a macro or set block has its place where the value is
 * printed, whereas transformers assumes that it is printed at once.
 */
package qlora4j.template;
