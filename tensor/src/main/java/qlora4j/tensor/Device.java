package qlora4j.tensor;

/**
 * Where tensors live and kernels run: {@code cpu}, {@code cuda:0}, {@code cuda:1} ..., or {@code plan}, a device
 * without memory on which a step's shapes are recorded. A device is always an argument, never a static.
 *
 * @param kind {@code cpu}, {@code cuda} or {@code plan}
 * @param index the number of the device of its kind, from 0
 */
public record Device(String kind, int index) {
    public static final Device CPU = new Device("cpu", 0);
    public static final Device PLAN = new Device("plan", 0);

    /** Parses {@code cpu}, {@code cuda} or {@code cuda:N}. */
    public static Device parse(String text) {
        if (text.equals("cpu")) {
            return CPU;
        }
        if (text.equals("cuda")) {
            return new Device("cuda", 0);
        }
        if (text.matches("cuda:\\d{1,3}")) {
            return new Device("cuda", Integer.parseInt(text.substring(5)));
        }
        throw new IllegalArgumentException("--device " + text + ": expected cpu, cuda or cuda:N");
    }

    /** Whether its tensors' bytes can be read by the JVM. */
    public boolean isHost() {
        return kind.equals("cpu");
    }

    @Override
    public String toString() {
        return kind.equals("cuda") ? kind + ":" + index : kind;
    }
}
