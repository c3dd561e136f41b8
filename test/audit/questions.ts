/** Milliseconds for an answer to come. */
const ANSWERED_WITHIN = 15_000;

/** Requests over one client's sockets that wait for their answers. */
export class Questions {
  private readonly waiting = new Map<string, (answer: { data?: unknown } | undefined) => void>();
  private next = 1;

  /** @returns undefined when no answer came */
  async ask(
    action: string,
    payload: unknown,
    send: (text: string) => void,
    isLate: () => void,
  ): Promise<{ data?: unknown } | undefined> {
    const id = `q${this.next++}`;
    const answer = new Promise<{ data?: unknown } | undefined>((resolve) => this.waiting.set(id, resolve));
    send(JSON.stringify({ id, type: "request", action, payload }));
    const timer = setTimeout(() => {
      isLate();
      this.answered(id, undefined);
    }, ANSWERED_WITHIN);
    const result = await answer;
    clearTimeout(timer);
    return result;
  }

  answered(id: string, answer: { data?: unknown } | undefined): void {
    this.waiting.get(id)?.(answer);
    this.waiting.delete(id);
  }

  /** The connection has ended. */
  lose(): void {
    for (const id of this.waiting.keys()) this.answered(id, undefined);
  }
}
