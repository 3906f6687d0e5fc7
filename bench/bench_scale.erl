%% What `scale_worker.py` does, in Erlang. Each function prints one line of JSON.
-module(bench_scale).
-export([idle/1, ring/1, tree/1, child/1, init/1]).

%% Start N processes that wait for a message, until the last one waits.
idle(N) ->
    Started = counters:new(1, []),
    Before = rss(),
    T0 = now_s(),
    spawn_all(N, fun () -> counters:add(Started, 1, 1), receive stop -> ok end end),
    wait(fun () -> counters:get(Started, 1) =:= N end),
    T1 = now_s(),
    io:format("{\"seconds\": ~p, \"bytes\": ~p}~n", [T1 - T0, (rss() - Before) / N]).

spawn_all(0, _) -> ok;
spawn_all(N, F) -> spawn(F), spawn_all(N - 1, F).

%% A message that N processes pass on, three times around; the quickest.
ring(N) ->
    Last = lists:foldl(fun (_, Next) -> spawn(fun () -> hop(Next) end) end, self(), lists:seq(1, N)),
    Rounds = [begin T0 = now_s(), Last ! go, receive go -> now_s() - T0 end end || _ <- lists:seq(1, 3)],
    io:format("{\"seconds\": ~p}~n", [lists:min(Rounds)]).

hop(Next) -> receive M -> Next ! M, hop(Next) end.

%% A supervisor with N children: its start, the restart of one child, and of all of them.
tree(N) ->
    process_flag(trap_exit, true),
    {Start, One} = start_tree(one_for_one, N),
    OneAgain = timed(fun () -> crash(One, 1) end),
    {_, All} = start_tree(one_for_all, N),
    AllAgain = timed(fun () -> crash(All, N) end),
    io:format("{\"start\": ~p, \"restart_one\": ~p, \"restart_all\": ~p}~n", [Start, OneAgain, AllAgain]).

start_tree(Strategy, N) ->
    T0 = now_s(),
    {ok, Pid} = supervisor:start_link(?MODULE, {Strategy, N, self()}),
    flush(N),
    {now_s() - T0, Pid}.

init({Strategy, N, To}) ->
    Children = [#{id => Id, start => {?MODULE, child, [To]}, shutdown => brutal_kill} || Id <- lists:seq(1, N)],
    {ok, {#{strategy => Strategy, intensity => 3, period => 5}, Children}}.

child(To) -> {ok, spawn_link(fun () -> To ! started, receive stop -> ok end end)}.

crash(Supervisor, Count) ->
    [{_, Pid, _, _} | _] = supervisor:which_children(Supervisor),
    exit(Pid, kill),
    flush(Count).

flush(0) -> ok;
flush(N) -> receive started -> flush(N - 1) end.

timed(F) -> T0 = now_s(), F(), now_s() - T0.

wait(Done) -> case Done() of true -> ok; false -> timer:sleep(1), wait(Done) end.

now_s() -> erlang:monotonic_time(nanosecond) / 1.0e9.

rss() ->
    {ok, Text} = file:read_file("/proc/self/status"),
    {match, [KiB]} = re:run(Text, "VmRSS:\\s+(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(KiB) * 1024.
