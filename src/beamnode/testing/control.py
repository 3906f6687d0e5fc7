"""The Erlang program that a peer runs for us: it evaluates what the control channel asks for and answers with terms.

Two processes. The controller owns the channel and does nothing else, so that it notices in every state that the
channel was closed (we died): then it halts the node. The evaluator runs the expressions; it is registered as `shell`,
its mailbox has nothing in it but what others sent there, and when it dies the controller starts another. The controller
keeps the bindings, which therefore outlive an evaluator.

A request is `{Id, erlang | elixir, Source, [{Name, Value}]}`, an answer `{Id, {ok, Value}}` or
`{Id, {error, Class, Reason, Stack, Text}}`, both in the external term format, each behind a length of four bytes.
"""

from __future__ import annotations

from typing import Final

_PROGRAM: Final = r"""
Syntax = fun (Module, Descriptor) -> error({syntax, unicode:characters_to_binary(Module:format_error(Descriptor))}) end,

Parse = fun (Source) ->
    case erl_scan:string(unicode:characters_to_list([Source, "\n."])) of
        {ok, Tokens, _} ->
            case erl_parse:parse_exprs(Tokens) of
                {ok, Expressions} -> Expressions;
                {error, {_, Module, Descriptor}} -> Syntax(Module, Descriptor)
            end;
        {error, {_, Module, Descriptor}, _} -> Syntax(Module, Descriptor)
    end
end,

Evaluate = fun
    (erlang, Source, Given, {Bindings, Other}) ->
        Expressions = Parse(Source),
        Bound = lists:foldl(fun ({Name, Value}, Acc) -> erl_eval:add_binding(Name, Value, Acc) end, Bindings, Given),
        {value, Result, Left} = erl_eval:exprs(Expressions, Bound),
        {Result, {Left, Other}};
    (elixir, Source, Given, {Other, Bindings}) ->
        Bound = lists:foldl(fun (Pair, Acc) -> lists:keystore(element(1, Pair), 1, Acc, Pair) end, Bindings, Given),
        {Result, Left} = 'Elixir.Code':eval_string(Source, Bound),
        {Result, {Other, Left}}
end,

Format = fun
    (elixir, Class, Reason, Stack) -> 'Elixir.Exception':format(Class, Reason, Stack);
    (erlang, Class, Reason, Stack) -> unicode:characters_to_binary(erl_error:format_exception(Class, Reason, Stack))
end,

Evaluator = fun Evaluator(Controller) ->
    receive
        {Controller, Language, Source, Given, Bindings} ->
            Outcome =
                try Evaluate(Language, Source, Given, Bindings) of
                    {Result, Left} -> {{ok, Result}, Left}
                catch
                    Class:Reason:Stack ->
                        Text = Format(Language, Class, Reason, Stack),
                        {{error, Class, Reason, Stack, Text}, Bindings}
                end,
            Controller ! {self(), Outcome},
            Evaluator(Controller)
    end
end,

Start = fun () ->
    Controller = self(),
    {Pid, Monitor} = spawn_monitor(fun () -> Controller ! {self(), ready}, Evaluator(Controller) end),
    receive {Pid, ready} -> register(shell, Pid) end,
    {Pid, Monitor}
end,

Control = fun Control(Port, {Pid, Monitor}, Bindings) ->
    receive
        {Port, eof} -> erlang:halt(0, [{flush, false}]);
        {'DOWN', Monitor, process, Pid, _} -> Control(Port, Start(), Bindings);
        {Port, {data, Packet}} ->
            {Id, Language, Source, Given} = binary_to_term(Packet),
            Pid ! {self(), Language, Source, Given, Bindings},
            receive
                {Port, eof} -> erlang:halt(0, [{flush, false}]);
                {Pid, {Answer, Left}} ->
                    Port ! {self(), {command, term_to_binary({Id, Answer})}},
                    Control(Port, {Pid, Monitor}, Left);
                {'DOWN', Monitor, process, Pid, Reason} ->
                    Answer = {error, exit, Reason, [], <<"the evaluating process was ended from outside">>},
                    Port ! {self(), {command, term_to_binary({Id, Answer})}},
                    Control(Port, Start(), Bindings)
            end
    end
end,

spawn(fun () ->
    Port = open_port({fd, FD_IN, FD_OUT}, [{packet, 4}, binary, eof]),
    Control(Port, Start(), {erl_eval:new_bindings(), []})
end).
"""


def control_program(fd_in: int, fd_out: int) -> str:
    """The program, for `erl -eval`: it reads requests from `fd_in` and writes answers to `fd_out`."""
    return _PROGRAM.replace("FD_IN", str(fd_in)).replace("FD_OUT", str(fd_out))
