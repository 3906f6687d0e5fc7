%% Both ends of every scenario, in Erlang. A peer runs the first half and keeps the clock; a measured BEAM runs the second
%% half, for which `measured.py` has the same processes under the same names. Times are nanoseconds of the peer's monotonic
%% clock, except in `pings`, where each pinger times its own.
-module(bench_peer).
-behaviour(gen_server).

-export([pings/2, pinged/2, inbound/3, outbound/3, served/3, served_raw/3]).
-export([start_counter/0, counted/1]).
-export([flood/2, stop_flood/1, start_pinger/1, stop_pinger/1, ask/3]).
-export([serve/0, init/1, handle_call/3, handle_cast/2]).

%%% The peer's half

%% The measured node pings an echo process of ours: its round trips.
pings(Node, N) ->
    Echo = echo(),
    Worker = start(Node, {ping, Echo, N}),
    receive {pinged, Worker, Samples} -> exit(Echo, kill), Samples end.

%% We ping the echo process of the measured node.
pinged(Node, N) ->
    in_process(fun () -> ping({bench_echo, Node}, N) end).

%% N messages to one process of the measured node, until that says that it has counted them.
inbound(Node, N, Payload) ->
    in_process(fun () ->
        Worker = start(Node, {count, N}),
        T0 = now_ns(),
        send_all(Worker, 1, N, Payload),
        receive {counted, Worker} -> now_ns() - T0 end
    end).

%% The same from one process of the measured node, from the word to go until the last one is here.
outbound(Node, N, Payload) ->
    in_process(fun () ->
        Worker = start(Node, {send, N, Payload}),
        T0 = now_ns(),
        Worker ! go,
        count(N),
        now_ns() - T0
    end).

%% N calls in all by so many processes: a monitor, a call, a demonitor each.
served(Node, Callers, N) ->
    crowd(Callers, N, fun () -> gen_server:call({bench_server, Node}, {add, 1}, infinity) end).

%% The same without monitors.
served_raw(Node, Callers, N) ->
    crowd(Callers, N, fun () ->
        Ref = make_ref(),
        {bench_raw, Node} ! {self(), Ref, {add, 1}},
        receive {Ref, _} -> ok end
    end).

%% Send to one process of the measured node until told to stop; the sender, and the process that counts.
flood(Node, Payload) ->
    Self = self(),
    Flooder = spawn(fun () ->
        Worker = start(Node, count),
        Self ! {flooding, self(), Worker},
        flood_on(Worker, 1, Payload)
    end),
    receive {flooding, Flooder, Worker} -> {Flooder, Worker} end.

stop_flood(Flooder) ->
    Monitor = monitor(process, Flooder),
    Flooder ! stop,
    receive {'DOWN', Monitor, process, Flooder, _} -> ok end.

flood_on(Worker, I, Payload) ->
    send_all(Worker, I, I + 99, Payload),
    receive stop -> ok after 0 -> flood_on(Worker, I + 100, Payload) end.

%% Ping the echo process of the measured node, a millisecond apart, until `stop_pinger`, which gives the round trips.
start_pinger(Node) ->
    spawn(fun () -> ping_on({bench_echo, Node}, []) end).

stop_pinger(Pinger) ->
    Pinger ! {stop, self()},
    receive {pinged, Pinger, Samples} -> Samples end.

ping_on(Echo, Samples) ->
    receive {stop, From} -> From ! {pinged, self(), Samples}
    after 1 -> ping_on(Echo, ping(Echo, 1) ++ Samples)
    end.

%% Start a job on the measured node and give back the answer that it ends with.
ask(Node, Job, Timeout) ->
    in_process(fun () ->
        Worker = start(Node, Job),
        receive {_, Worker, Answer} -> Answer after Timeout -> error(timeout) end
    end).

%% A process that is sent messages by a `press` job, and how many it has got.
start_counter() -> spawn(fun () -> counter(0) end).

counter(N) ->
    receive
        {count, From} -> From ! {counted, self(), N}, counter(N);
        {msg, _, _} -> counter(N + 1)
    end.

counted(Counter) ->
    Counter ! {count, self()},
    receive {counted, Counter, N} -> N end.

crowd(Callers, N, Call) ->
    in_process(fun () ->
        Shares = [N div Callers + case I =< N rem Callers of true -> 1; false -> 0 end || I <- lists:seq(1, Callers)],
        Ready = [spawn_monitor(fun () -> receive go -> repeat(Share, Call) end end) || Share <- Shares],
        T0 = now_ns(),
        [Pid ! go || {Pid, _} <- Ready],
        [receive {'DOWN', Monitor, process, _, normal} -> ok end || {_, Monitor} <- Ready],
        now_ns() - T0
    end).

repeat(0, _) -> ok;
repeat(N, Call) -> Call(), repeat(N - 1, Call).

start(Node, Job) ->
    {bench, Node} ! {self(), Job},
    receive {started, Worker} -> Worker end.

%% A heap and a mailbox of its own for every scenario; its end is the answer, or the error.
in_process(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun () -> exit({answer, Fun()}) end),
    receive
        {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

now_ns() -> erlang:monotonic_time(nanosecond).

%%% The measured half

serve() ->
    {ok, _} = gen_server:start({local, bench_server}, ?MODULE, [], []),
    register(bench_echo, echo()),
    register(bench_raw, spawn(fun () -> raw(0) end)),
    register(bench, spawn(fun commands/0)),
    ok.

commands() ->
    receive {From, Job} -> spawn(fun () -> From ! {started, self()}, job(From, Job) end) end,
    commands().

job(From, {count, N}) ->
    count(N),
    From ! {counted, self()};
job(From, {send, N, Payload}) ->
    receive go -> send_all(From, 1, N, Payload) end;
job(From, {ping, Echo, N}) ->
    From ! {pinged, self(), ping(Echo, N)};
job(From, {press, _, To, Senders, Each}) ->
    [spawn(fun () -> press(To, 1, Each) end) || _ <- lists:seq(1, Senders)],
    From ! {pressing, self(), Senders}.

press(_, I, N) when I > N -> ok;
press(To, I, N) ->
    To ! {msg, I, binary:copy(<<I:8>>, 1048576)},
    press(To, I + 1, N).

echo() -> spawn(fun echo_loop/0).

echo_loop() ->
    receive {From, I} -> From ! I end,
    echo_loop().

ping(_, 0) -> [];
ping(Echo, N) ->
    T0 = now_ns(),
    Echo ! {self(), N},
    receive N -> ok end,
    T1 = now_ns(),
    [T1 - T0 | ping(Echo, N - 1)].

send_all(_, I, N, _) when I > N -> ok;
send_all(To, I, N, Payload) ->
    To ! {msg, I, Payload},
    send_all(To, I + 1, N, Payload).

count(0) -> ok;
count(N) -> receive {msg, _, _} -> count(N - 1) end.

raw(Sum) ->
    receive {From, Ref, {add, N}} -> From ! {Ref, Sum + N}, raw(Sum + N) end.

init([]) -> {ok, 0}.
handle_call({add, N}, _From, Sum) -> {reply, Sum + N, Sum + N}.
handle_cast(_, Sum) -> {noreply, Sum}.
